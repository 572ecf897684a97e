"""On whose behalf a call comes, and what keeps its caller on one route of a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from feinschliff.formats.records import Message
from feinschliff.inference.life import PROJECT
from feinschliff.inference.requests import refuse
from feinschliff.inference.sticky import key_of_call
from feinschliff.kit import names
from feinschliff.kit.errors import FieldViolation

USER_CHARACTERS_MAX = 64


class Asking(Protocol):
    """A call that says for which project it is."""

    @property
    def project(self) -> str: ...


class Keyed(Asking, Protocol):
    """A call of one text or several, which may be part of a greater whole."""

    @property
    def user(self) -> str: ...

    @property
    def route_key(self) -> str: ...


class Caller(NamedTuple):
    """Who asks.

    Attributes:
        project: `projects/{project}`; empty where the call does not say.
        sticky: calls with the same one get the same route; empty draws one.
    """

    project: str = ""
    sticky: str = ""


def project_of(request: Asking, path: str = "") -> str:
    """Raises Invalid NAME_MALFORMED."""
    if request.project:
        names.parse(PROJECT, request.project, field=f"{path}project")
    return request.project


def caller_of(request: Keyed, path: str = "") -> Caller:
    """Who wants texts continued, or turned into vectors.

    Raises:
        Invalid: REQUEST_INVALID, NAME_MALFORMED.
    """
    for field, text in (("user", request.user), ("route_key", request.route_key)):
        if len(text) > USER_CHARACTERS_MAX:
            message = f"{field} has at most {USER_CHARACTERS_MAX} characters, not {len(text)}."
            refuse([FieldViolation(f"{path}{field}", message, "OUT_OF_RANGE")])
    key = f"key {request.route_key}" if request.route_key else ""
    return Caller(project_of(request, path), key_of_call(request.user, ()) or key)


class Chat(Asking, Protocol):
    """A conversation to answer."""

    @property
    def user(self) -> str: ...


def caller_of_chat(request: Chat, path: str, messages: Sequence[Message]) -> Caller:
    """Who wants a conversation answered. Raises Invalid NAME_MALFORMED."""
    return Caller(project_of(request, path), key_of_call(request.user, messages))
