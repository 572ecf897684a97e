"""Resource names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.kit.errors import Invalid
from feinschliff.kit.names import ID_RULE, build, check_id, matches, new_id, parse

VERSION = "projects/{project}/datasets/{dataset}/versions/{version}"
IDS = st.from_regex(ID_RULE, fullmatch=True)


@given(IDS, IDS, st.integers(0, 10**6))
def test_what_is_built_is_parsed_back(project: str, dataset: str, version: int) -> None:
    name = build(VERSION, project=project, dataset=dataset, version=version)
    assert parse(VERSION, name) == {"project": project, "dataset": dataset, "version": str(version)}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "projects/p/datasets/d",
        "projects/p/datasets/d/versions/",
        "projects/p/datasets/d/versions/1/",
        "/projects/p/datasets/d/versions/1",
        "projects/P/datasets/d/versions/1",
        "projects/../datasets/d/versions/1",
        "projects/-p/datasets/d/versions/1",
        "projects/p/datasets/d./versions/1",
        "projects/p/datasets/ü/versions/1",
        "projects/p/datasets/d/versions/1\n",
        "projects/" + "p" * 65 + "/datasets/d/versions/1",
        "projects/p/q/datasets/d/versions/1",
    ],
)
def test_a_malformed_name_is_refused_with_field_and_form(name: str) -> None:
    assert not matches(VERSION, name)
    with pytest.raises(Invalid) as caught:
        parse(VERSION, name, field="dataset_version")
    assert caught.value.reason == "NAME_MALFORMED"
    assert [field.field for field in caught.value.fields] == ["dataset_version"]
    assert VERSION in caught.value.message


def test_a_huge_name_is_refused_shortly() -> None:
    with pytest.raises(Invalid) as caught:
        parse(VERSION, "x" * 10_000_000)
    assert len(caught.value.message) < 400


def test_characters_of_the_pattern_are_literal() -> None:
    assert matches("models/{model}@{alias}", "models/m@production")
    assert not matches("a.b/{x}", "aXb/1")


def test_building_with_a_bad_id_is_refused() -> None:
    with pytest.raises(Invalid):
        build("projects/{project}", project="../../etc")


@pytest.mark.parametrize("value", ["a", "a1", "file-x_1.y", "x" * 64])
def test_ids_that_are_fine(value: str) -> None:
    assert check_id(value, field="dataset_id") == value


@pytest.mark.parametrize("value", ["", "A", "-a", "a-", "a b", "x" * 65, "a/b"])
def test_ids_that_are_not(value: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_id(value, field="dataset_id")
    assert caught.value.fields[0].field == "dataset_id"


def test_new_ids_come_from_the_given_randomness() -> None:
    assert new_id("ftjob-", random_bytes=bytes) == "ftjob-" + "0" * 16
    assert new_id(random_bytes=lambda n: b"\xff" * n) == "z" * 16


@given(st.binary(min_size=10, max_size=10))
def test_every_new_id_is_an_id_and_keeps_all_its_bits(random: bytes) -> None:
    made = new_id("file-", random_bytes=lambda _: random)
    assert check_id(made, field="id") == made
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    number = 0
    for letter in made.removeprefix("file-"):
        number = number * 32 + alphabet.index(letter)
    assert number.to_bytes(10, "big") == random


def test_new_ids_differ() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000
