"""Field options as law, tried on messages made for these tests."""

import pytest
from google.protobuf.message import Message

from feinschliff.kit.fields import clear_output_only, missing_required
from tests.unit.kit.messages import message


def test_an_empty_request_lacks_every_required_field_but_no_nested_one() -> None:
    assert missing_required(message("Request")) == ["parent", "job", "kind", "sizes"]


def test_a_whole_request_lacks_nothing() -> None:
    assert missing_required(whole()) == []


def whole() -> Message:
    request = message("Request", parent="p", kind=1, sizes=[1])
    request.job.name = "n"
    return request


def test_a_nested_field_is_required_where_its_parent_is_set() -> None:
    request = whole()
    request.job.ClearField("name")
    request.job.SetInParent()
    assert missing_required(request) == ["job.name"]


def test_items_of_lists_and_maps_are_named_by_index_and_key() -> None:
    request = whole()
    request.jobs.add(name="fine")
    request.jobs.add()
    request.by_key["k"].SetInParent()
    assert missing_required(request) == ["jobs[1].name", "by_key['k'].name"]


def test_of_a_oneof_one_member_is_enough() -> None:
    choice = message("Choice")
    assert missing_required(choice) == ["left", "right"]
    choice.right = "r"
    assert missing_required(choice) == []


def test_zero_and_false_are_values_unless_presence_is_explicit() -> None:
    assert missing_required(message("Numbers")) == ["explicit"]
    assert missing_required(message("Numbers", explicit=0)) == []


def test_a_message_that_contains_itself_is_followed_as_deep_as_it_goes() -> None:
    tree = message("Tree", name="root")
    tree.child.child.SetInParent()
    assert missing_required(tree) == ["child.name", "child.child.name"]


@pytest.mark.parametrize(
    ("paths", "missing"),
    [([], ["job.name", "job.title"]), (["title"], ["job.title"]), (["note"], []), (["*"], ["job.name", "job.title"])],
)
def test_beside_an_update_mask_only_what_it_names_is_required(paths: list[str], missing: list[str]) -> None:
    request = message("UpdateRequest")
    request.job.note = "x"
    request.update_mask.paths.extend(paths)
    if not paths:
        missing = []
    assert missing_required(request) == missing


def test_output_only_fields_are_cleared_at_every_depth_and_nothing_else() -> None:
    request = whole()
    for job in (request.job, request.jobs.add(), request.by_key["k"]):
        job.name, job.state, job.note = "n", 3, "kept"
        job.child.state = 4
    clear_output_only(request)
    for job in (request.job, request.jobs[0], request.by_key["k"]):
        assert (job.name, job.state, job.note, job.child.state) == ("n", 0, "kept", 0)


def test_messages_without_options_are_left_alone() -> None:
    plain = message("Plain", text="t")
    clear_output_only(plain)
    assert missing_required(plain) == []
    assert plain.text == "t"
