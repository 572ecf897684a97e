"""The same caller gets the same route; all callers together get the shares."""

from __future__ import annotations

import pytest

from feinschliff.formats.records import Message
from feinschliff.inference.sticky import Share, choose, key_of_call

KEYS = [f"user {number}" for number in range(3000)]


def chosen(**weights: float) -> dict[str, str]:
    shares = [Share(route, weight) for route, weight in weights.items()]
    return {key: choose(shares, key) for key in KEYS}


def test_routes_get_their_shares_of_the_callers() -> None:
    routes = list(chosen(a=90, b=10).values())
    assert routes.count("b") == pytest.approx(300, abs=60)
    assert chosen(a=90, b=10) == chosen(b=0.1, a=0.9), "neither the order nor the sum of the weights matters"


def test_a_larger_share_takes_callers_over_and_moves_no_others() -> None:
    before, after = chosen(a=80, b=15, c=5), chosen(a=80, b=15, c=50)
    moved = {(before[key], after[key]) for key in KEYS if before[key] != after[key]}
    assert moved == {("a", "c"), ("b", "c")}


def test_a_route_that_goes_gives_its_callers_to_the_others_and_they_come_back() -> None:
    before, without = chosen(a=1, b=1, c=1), chosen(a=1, b=1)
    assert all(before[key] in (route, "c") for key, route in without.items())


def turn(role: str, text: str) -> Message:
    return Message(role=role, content=text)  # type: ignore[arg-type]


def test_a_call_is_known_by_its_user_else_by_how_its_conversation_began() -> None:
    begun = [turn("system", "Be kind."), turn("user", "Hello"), turn("assistant", "Hi"), turn("user", "More")]
    assert key_of_call("u1", begun) == key_of_call("u1", begun[:1]) != key_of_call("u2", begun)
    assert key_of_call("", begun) == key_of_call("", begun[:2]) != ""
    assert key_of_call("", begun) != key_of_call("", [turn("user", "Hullo")])
    assert key_of_call("Hello", []) != key_of_call("", [turn("user", "Hello")])
    assert key_of_call("", [turn("system", "Be kind.")]) == ""
