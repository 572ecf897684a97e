"""Keys and the projects that they open."""

from __future__ import annotations

import pytest

from feinschliff.gateway.auth import Keys
from feinschliff.gateway.errors import ApiError


def test_a_key_opens_its_project_and_one_without_opens_default() -> None:
    keys = Keys.parse("one=alpha, two ,th=ree=beta")
    assert keys.project_of("Bearer one") == "alpha"
    assert keys.project_of("bearer two") == "default"
    assert keys.project_of("Bearer th=ree") == "beta"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", "Basic one", "one", "Bearer one extra"])
def test_anything_else_is_refused(header: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        Keys.parse("one=alpha").project_of(header)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_without_keys_any_key_but_none_opens_default() -> None:
    assert Keys.parse("").project_of("Bearer anything") == "default"
    with pytest.raises(ApiError):
        Keys.parse("").project_of(None)


@pytest.mark.parametrize("text", ["=alpha", "one=alpha,one=beta", "one=Not An Id"])
def test_a_list_that_is_wrong_is_refused_without_repeating_a_key(text: str) -> None:
    with pytest.raises(ValueError, match="entry") as caught:
        Keys.parse(text, variable="KEYS")
    assert "one" not in str(caught.value).replace("no project", "").replace("one that", "")


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(Keys.parse("secret=alpha"))
