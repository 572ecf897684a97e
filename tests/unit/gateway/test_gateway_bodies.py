"""How problems of a body are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from feinschliff.gateway.bodies import Auto, Body, checked
from feinschliff.gateway.conversation import ChatBody
from feinschliff.gateway.errors import ApiError
from feinschliff.gateway.tuning import JobBody


class Inner(Body):
    count: Annotated[Annotated[int, Field(ge=1)] | None, Auto] = None


class Sample(Body):
    name: str
    items: list[Inner] = Field(default_factory=list)
    ratio: float = 0.5


def refused(given_body: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        checked(Sample, given_body)
    return caught.value


@pytest.mark.parametrize(
    ("body", "code", "param", "told"),
    [
        ({}, "missing_required_parameter", "name", "Missing required parameter: 'name'."),
        ({"name": "x", "new": 1}, "unknown_parameter", "new", "Unknown parameter: 'new'."),
        (
            {"name": 3},
            "invalid_type",
            "name",
            "Invalid type for 'name': expected a string, but got an integer instead.",
        ),
        (
            {"name": "x", "items": [{}, {"count": 0}]},
            "integer_below_min_value",
            "items[1].count",
            "Invalid 'items[1].count': input should be greater than or equal to 1, but got 0.",
        ),
        (
            {"name": "x", "items": [{"count": "many"}]},
            "invalid_type",
            "items[0].count",
            "Invalid type for 'items[0].count': expected an integer, but got a string instead.",
        ),
        (
            {"name": "x", "items": None},
            "invalid_type",
            "items",
            "Invalid type for 'items': expected an array, but got null instead.",
        ),
    ],
)
def test_a_problem_is_told_with_code_path_and_what_was_found(
    body: dict[str, Any], code: str, param: str, told: str
) -> None:
    error = refused(body)
    assert (error.status, error.code, error.param, error.message) == (400, code, param, told)


def test_several_problems_are_told_together_up_to_a_bound() -> None:
    error = refused({"name": "x"} | {f"k{n}": 1 for n in range(9)})
    assert error.message.count("Unknown parameter") == 5
    assert error.message.endswith("... and 4 more problems.")


def test_auto_is_nothing() -> None:
    assert checked(Inner, {"count": "auto"}) == checked(Inner, {}) == Inner()


@pytest.mark.parametrize("body", [None, [], "x", 3, 1.5, True])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    assert refused(body).code == "invalid_type"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=10,
)
FIELDS = st.sampled_from([*ChatBody.model_fields, *JobBody.model_fields, "unheard of"])


@settings(deadline=None)
@given(st.dictionaries(FIELDS, JSON, max_size=6))
def test_whatever_comes_is_taken_or_refused_in_the_envelope(body: dict[str, Any]) -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    told = [
        refusal_of(lambda: checked(ChatBody, chat | body).check_served()),
        refusal_of(lambda: checked(JobBody, {"model": "m", "training_file": "f"} | body).check_served()),
    ]
    assert all(error is None or (error.status == 400 and error.message and error.code) for error in told)


def refusal_of(act: Callable[[], None]) -> ApiError | None:
    try:
        act()
    except ApiError as error:
        return error
    return None
