"""Keys and the projects that they open."""

from __future__ import annotations

import pytest

from feinschliff.gateway.auth import Keys
from feinschliff.gateway.errors import ApiError


def test_a_key_opens_its_project_and_one_without_opens_default() -> None:
    keys = Keys.parse("one=alpha, two ,th=ree=beta")
    assert keys.opened_by("Bearer one").project == "alpha"
    assert keys.opened_by("bearer two").project == "default"
    assert keys.opened_by("Bearer th=ree").project == "beta"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", "Basic one", "one", "Bearer one extra"])
def test_anything_else_is_refused(header: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        Keys.parse("one=alpha").opened_by(header)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_without_keys_any_key_but_none_opens_default() -> None:
    assert Keys.parse("").opened_by("Bearer anything").project == "default"
    with pytest.raises(ApiError):
        Keys.parse("").opened_by(None)


def test_a_key_has_the_rights_that_stand_behind_its_project() -> None:
    keys = Keys.parse("one=alpha,two=alpha:skip_guards,th:ree,fo=ur:5=beta")
    assert [keys.opened_by(f"Bearer {key}").may_skip_guards for key in ("one", "two", "th:ree")] == [False, True, False]
    assert keys.opened_by("Bearer two").project == keys.opened_by("Bearer one").project == "alpha"
    assert keys.opened_by("Bearer fo=ur:5").project == "beta"
    assert Keys.parse("").opened_by("Bearer any").may_skip_guards, "whoever is on this machine alone"


@pytest.mark.parametrize("text", ["=alpha", "one=alpha,one=beta", "one=Not An Id", "one=a:admin", "one=:skip_guards"])
def test_a_list_that_is_wrong_is_refused_without_repeating_a_key(text: str) -> None:
    with pytest.raises(ValueError, match="entry") as caught:
        Keys.parse(text, variable="KEYS")
    assert "one" not in str(caught.value).replace("no project", "").replace("one that", "")


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(Keys.parse("secret=alpha"))
