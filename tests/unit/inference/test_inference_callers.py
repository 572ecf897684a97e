"""On whose behalf a call comes, and which calls keep to one route."""

from __future__ import annotations

import pytest

from feinschliff.formats.records import Message
from feinschliff.inference.callers import Caller, caller_of, caller_of_chat, project_of
from feinschliff.kit.errors import Invalid
from feinschliff.v1 import inference_pb2 as pb

P = "projects/default"
TURNS = [Message(role="user", content="hello")]


def test_a_call_says_its_project() -> None:
    assert project_of(pb.ScoreRequest(project=P)) == P
    assert project_of(pb.ScoreRequest()) == ""
    assert caller_of_chat(pb.ChatRequest(project=P), "", TURNS).project == P


def test_a_user_keeps_to_one_route_whatever_is_asked() -> None:
    chat = caller_of_chat(pb.ChatRequest(user="u"), "", TURNS)
    assert (
        chat == caller_of(pb.CompleteRequest(user="u", text="x")) == caller_of(pb.EmbedRequest(user="u", route_key="k"))
    )


def test_parts_of_one_whole_keep_to_one_route_and_others_are_drawn() -> None:
    parts = [pb.EmbedRequest(texts=[text], route_key="k") for text in ("a", "b")]
    assert caller_of(parts[0]) == caller_of(parts[1]) != caller_of(pb.EmbedRequest(texts=["a"], route_key="l"))
    assert caller_of(parts[0]).sticky != caller_of(pb.EmbedRequest(user="k")).sticky
    assert caller_of(pb.EmbedRequest(texts=["a"])) == Caller()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.EmbedRequest(user="u" * 65), "x.user"),
        (pb.CompleteRequest(route_key="u" * 65), "x.route_key"),
        (pb.CompleteRequest(project="default"), "x.project"),
    ],
)
def test_what_cannot_be_is_refused_by_its_path(request_: pb.EmbedRequest | pb.CompleteRequest, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        caller_of(request_, "x.")
    assert [one.field for one in refused.value.fields] == [field]
