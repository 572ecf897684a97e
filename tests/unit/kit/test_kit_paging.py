"""Pages and their tokens."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.kit.errors import Invalid
from feinschliff.kit.paging import Page, page_size

KEYS = st.lists(st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False), min_size=1)


def test_the_first_page_starts_at_the_start() -> None:
    page = Page.open("", 0, "projects/p", "", "")
    assert (page.size, page.after) == (50, None)


@given(KEYS)
def test_a_token_brings_its_key_back_and_is_safe_in_a_url(key: list[str | int | float]) -> None:
    token = Page.open("", 10, "projects/p", "f", "o").token(*key)
    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert Page.open(token, 10, "projects/p", "f", "o").after == tuple(key)


def test_the_page_size_may_change_on_the_way() -> None:
    token = Page.open("", 10, "q").token("a")
    assert Page.open(token, 20, "q").size == 20


@pytest.mark.parametrize("query", [("other", "f"), ("projects/p",), ("projects/p", "g"), ("projects/pf", "")])
def test_a_token_of_another_query_is_refused(query: tuple[str, ...]) -> None:
    token = Page.open("", 10, "projects/p", "f").token("a")
    with pytest.raises(Invalid) as caught:
        Page.open(token, 10, *query)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def made(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "token",
    ["x", "!!!", "ü", made("{}"), made("[]"), made('["q"]'), made('["q", [1]]'), made("nope"), made("[null,1]")],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Invalid) as caught:
        Page.open(token, 10, "q")
    assert caught.value.reason == "PAGE_TOKEN_INVALID"
    assert caught.value.fields[0].field == "page_token"


@given(st.text())
def test_no_text_breaks_it(token: str) -> None:
    with suppress(Invalid):
        Page.open(token, 10, "q")


def test_a_token_with_truth_values_in_it_is_refused() -> None:
    good = json.loads(base64.urlsafe_b64decode(Page.open("", 10, "q").token(1) + "=="))
    with pytest.raises(Invalid):
        Page.open(made(json.dumps([good[0], True])), 10, "q")


@pytest.mark.parametrize(("asked", "given_size"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_sizes(asked: int, given_size: int) -> None:
    assert page_size(asked) == given_size


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        page_size(-1)
    assert caught.value.reason == "PAGE_SIZE_INVALID"
