"""Update masks."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from feinschliff.kit.errors import Invalid
from feinschliff.kit.masks import merged
from tests.unit.kit.messages import message


def current() -> Message:
    job = message("Job", name="n", note="old", base="b", tags=["a", "b"], labels={"k": "v"})
    job.child.rate, job.child.steps = 0.5, 3
    return job


def changed(patch: Message, *paths: str) -> Message:
    before = current()
    result = merged(before, patch, FieldMask(paths=paths))
    assert before == current(), "the original is untouched"
    return result


def test_only_masked_fields_change() -> None:
    result = changed(message("Job", note="new", tags=["c"]), "note")
    assert (result.note, list(result.tags)) == ("new", ["a", "b"])


def test_a_masked_field_that_is_not_set_is_cleared() -> None:
    result = changed(message("Job"), "note", "tags", "labels", "child")
    assert (result.note, list(result.tags), dict(result.labels)) == ("", [], {})
    assert not result.HasField("child")


def test_lists_and_maps_are_replaced_not_joined() -> None:
    result = changed(message("Job", tags=["c"], labels={"x": "y"}), "tags", "labels")
    assert (list(result.tags), dict(result.labels)) == (["c"], {"x": "y"})


def test_a_path_reaches_into_a_message() -> None:
    patch = message("Job")
    patch.child.rate = 0.9
    child = changed(patch, "child.rate").child
    assert (child.rate, child.steps) == (0.9, 3)


def test_a_path_into_a_message_that_the_patch_lacks_clears_it_there() -> None:
    child = changed(message("Job"), "child.rate").child
    assert (child.rate, child.steps) == (0.0, 3)


def test_a_whole_message_is_replaced() -> None:
    patch = message("Job")
    patch.child.rate = 0.9
    assert changed(patch, "child").child.steps == 0


def test_an_empty_mask_takes_what_is_set_and_may_change() -> None:
    result = changed(message("Job", note="new", base="forged", state=9))
    assert (result.note, result.base, result.state) == ("new", "b", 0)
    assert list(result.tags) == ["a", "b"]


def test_a_star_replaces_all_that_may_change() -> None:
    result = changed(message("Job", note="new"), "*")
    assert (result.note, list(result.tags), result.base) == ("new", [], "b")


@pytest.mark.parametrize("path", ["nope", "note.deeper", "child.nope", "tags.0", "labels.k", "", "note."])
def test_a_path_that_leads_nowhere_is_refused_by_name(path: str) -> None:
    with pytest.raises(Invalid) as caught:
        changed(message("Job"), "note", path)
    assert caught.value.reason == "MASK_PATH_UNKNOWN"
    assert [field.field for field in caught.value.fields] == [f"update_mask.{path}"]


@pytest.mark.parametrize("path", ["state", "base", "id", "child.state"])
def test_what_only_the_server_sets_or_what_is_fixed_is_refused(path: str) -> None:
    with pytest.raises(Invalid) as caught:
        changed(message("Job"), path)
    assert caught.value.reason == "MASK_PATH_FORBIDDEN"


def test_a_room_may_fix_more() -> None:
    with pytest.raises(Invalid):
        merged(current(), message("Job"), FieldMask(paths=["note"]), immutable={"note"})
    patch = message("Job", note="new")
    assert merged(current(), patch, FieldMask(), immutable={"note"}).note == "old"
