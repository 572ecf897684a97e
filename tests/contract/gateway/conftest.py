"""A running gateway, and a client of the `openai` package for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.contract.gateway.harness import Gateway


@pytest.fixture
def started() -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway of the test's own, with the settings given; stops it after the test."""
    gateways: list[Gateway] = []

    def begin(**settings: Any) -> Gateway:
        gateways.append(Gateway(**settings))
        return gateways[-1]

    yield begin
    for gateway in gateways:
        gateway.stop()


@pytest.fixture(scope="module")
def _shared() -> Iterator[Gateway]:
    """Of one file: what other files do to the process's own channels must not reach it."""
    shared = Gateway()
    yield shared
    shared.stop()


@pytest.fixture
def gateway(_shared: Gateway) -> Iterator[Gateway]:
    """A gateway as it is out of the box, without keys; tests that stop it or count what it counts start their own."""
    yield _shared
    _shared.reset()


@pytest.fixture
def openai(gateway: Gateway) -> OpenAI:
    return gateway.client()
