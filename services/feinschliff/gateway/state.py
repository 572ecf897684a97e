"""What every route needs: settings, the services behind the door, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from feinschliff.gateway.auth import Keys
from feinschliff.gateway.clients import Clients
from feinschliff.gateway.errors import ApiError
from feinschliff.gateway.ids import Bases
from feinschliff.gateway.loading import Loader
from feinschliff.gateway.models import Models
from feinschliff.gateway.settings import GatewaySettings
from feinschliff.kit.clock import Clock
from feinschliff.kit.health import Readiness
from feinschliff.kit.metrics import Metrics


@dataclass(frozen=True)
class State:
    """Made once at the start; nothing in it changes with the requests."""

    settings: GatewaySettings
    clients: Clients
    keys: Keys
    bases: Bases
    models: Models
    loader: Loader
    metrics: Metrics
    clock: Clock
    readiness: Readiness


def make_state(
    settings: GatewaySettings, clients: Clients, metrics: Metrics, clock: Clock, readiness: Readiness
) -> State:
    bases = Bases(dict(settings.gateway_base_models))
    loader = Loader(clients, is_on=settings.gateway_auto_deploy, seconds=settings.gateway_load_seconds)
    return State(settings, clients, settings.keys, bases, Models(clients, bases), loader, metrics, clock, readiness)


def _state(request: Request) -> State:
    state = request.app.state.gateway
    assert isinstance(state, State)
    return state


Here = Annotated[State, Depends(_state)]


def _project(request: Request, here: Here) -> str:
    """The project that the caller's key opens."""
    opened = here.keys.opened_by(request.headers.get("authorization"))
    request.state.project, request.state.opened = opened.project, opened
    return opened.project


def refuse_skipping(request: Request, asked: bool | None) -> None:
    """
    Raises:
        ApiError: 403 permission_denied where the caller's key may not leave out guards.
    """
    if asked and not request.state.opened.may_skip_guards:
        message = "This key may not skip guards; leave out 'skip_guards', or ask whoever runs this installation."
        raise ApiError(403, message, code="permission_denied", param="skip_guards")


Project = Annotated[str, Depends(_project)]
