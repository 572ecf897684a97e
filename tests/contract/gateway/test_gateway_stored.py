"""Stored chat completions through the unmodified `openai` package, on the real completion log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai as sdk
import pytest
from openai import OpenAI

from feinschliff.gateway.settings import GatewaySettings
from feinschliff.ingestion.completion_service import CompletionLogService
from feinschliff.ingestion.completions import Completions
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.db import Database
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Room, Servicer
from feinschliff.v1 import common_pb2, ingestion_pb2_grpc, registry_pb2, training_pb2
from feinschliff.v1 import ingestion_pb2 as pb
from tests.contract.gateway.asking import ask
from tests.contract.gateway.harness import QUICK, Gateway, InThread
from tests.contract.gateway.inference import BASE as BASE_URI
from tests.contract.gateway.tuned import BASE


class Remembering:
    """A gateway whose log is the real one; what inference would record of its calls is recorded here."""

    def __init__(self, folder: Path) -> None:
        self._database = Database(f"sqlite:///{folder / 'ingestion.db'}", "ingestion")
        self._database.upgrade()
        metrics = Metrics("ingestion")
        completions = Completions(self._database, SystemClock(), metrics, bytes_max=1 << 20)
        servicer = Servicer(
            ingestion_pb2_grpc.add_CompletionLogServiceServicer_to_server,
            CompletionLogService(completions),
            "feinschliff.v1.CompletionLogService",
        )
        room = Room("ingestion", 0, 0, [servicer], [], {}, [], metrics)
        self._log = InThread(lambda: room, GatewaySettings(**QUICK))
        address = f"127.0.0.1:{self._log.port}"
        keys = {"gateway_api_keys": "key-one=default,key-two=other"}
        self.gateway = Gateway(ingestion_address=address, **keys)
        self._channel = grpc.insecure_channel(address)
        self.stub = ingestion_pb2_grpc.CompletionLogServiceStub(self._channel)
        self._seen = 0

    def remember(self, answer: str = "you said so") -> list[str]:
        """Records the calls since the last time that asked for it; their ids."""
        requests = self.gateway.backends.inference.requests
        new, self._seen = requests[self._seen :], len(requests)
        kept = [one for one in new if one.store]
        said = common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, parts=[common_pb2.Part(text=answer)])
        for one in kept:
            project, completion = one.completion.split("/")[1], one.completion.split("/")[3]
            exchange = pb.Completion(
                model=one.model,
                messages=one.messages,
                sampling=one.sampling,
                response=said,
                finish_reason=common_pb2.FINISH_REASON_STOP,
                usage=common_pb2.TokenUsage(prompt_tokens=2, completion_tokens=3, total_tokens=5),
                metadata=dict(one.metadata),
                user=one.user,
            )
            self.stub.RecordCompletion(
                pb.RecordCompletionRequest(parent=f"projects/{project}", completion_id=completion, completion=exchange)
            )
        return [one.completion.split("/")[3] for one in kept]

    def reset(self) -> None:
        self.gateway.reset()
        self._seen = 0
        for project in ("default", "other"):
            for one in self.stub.ListCompletions(pb.ListCompletionsRequest(parent=f"projects/{project}")).completions:
                self.stub.DeleteCompletion(pb.DeleteCompletionRequest(name=one.name))

    def close(self) -> None:
        self._channel.close()
        self.gateway.stop()
        self._log.stop()
        self._database.close()


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remembering]:
    made = Remembering(tmp_path_factory.mktemp("log"))
    yield made
    made.close()


@pytest.fixture
def log(_shared: Remembering) -> Iterator[Remembering]:
    _shared.gateway.backends.inference.serve()
    yield _shared
    _shared.reset()


@pytest.fixture
def openai(log: Remembering) -> OpenAI:
    return log.gateway.client("key-one")


def test_a_stored_answer_is_found_under_its_own_id(openai: OpenAI, log: Remembering) -> None:
    answer = ask(openai, store=True, metadata={"team": "a"}, user="customer-7", temperature=0.5, seed=7)
    assert log.remember() == [answer.id]
    stored = openai.chat.completions.retrieve(answer.id)
    assert (stored.id, stored.object, stored.model) == (answer.id, "chat.completion", BASE)
    assert (stored.choices[0].message.content, stored.choices[0].finish_reason) == ("you said so", "stop")
    assert stored.usage is not None
    assert stored.usage.total_tokens == 5
    told: dict[str, Any] = stored.model_dump()
    assert (told["metadata"], told["temperature"], told["seed"]) == ({"team": "a"}, 0.5, 7)
    assert (told["input_user"], told["top_p"], told["tools"]) == ("customer-7", None, None)


def test_a_stream_has_the_id_that_it_is_stored_under_from_its_first_chunk(openai: OpenAI, log: Remembering) -> None:
    chunks = list(ask(openai, stream=True, store=True))
    assert {chunk.id for chunk in chunks} == set(log.remember())


def test_the_caller_decides_and_silence_leaves_it_to_the_deployment(openai: OpenAI, log: Remembering) -> None:
    for given in (True, False, None):
        ask(openai, store=given)
    sent = log.gateway.backends.inference.requests
    assert [(one.HasField("store"), one.store) for one in sent] == [(True, True), (True, False), (False, False)]


def many(openai: OpenAI, log: Remembering) -> list[str]:
    """Five stored answers, the oldest first."""
    found = []
    for number in range(5):
        ask(openai, f"question {number}", store=True, metadata={"n": str(number), "half": "ab"[number % 2]})
        found += log.remember()
    return found


def test_lists_are_paged_filtered_and_ordered_as_openai_does(openai: OpenAI, log: Remembering) -> None:
    ids = many(openai, log)
    assert [one.id for one in openai.chat.completions.list()] == ids
    assert [one.id for one in openai.chat.completions.list(limit=2)] == ids
    assert [one.id for one in openai.chat.completions.list(order="desc", limit=2)] == ids[::-1]
    first = openai.chat.completions.list(limit=2)
    assert ([one.id for one in first.data], first.has_more) == (ids[:2], True)
    assert [one.id for one in openai.chat.completions.list(after=ids[3])] == ids[4:]
    assert [one.id for one in openai.chat.completions.list(metadata={"half": "b"})] == [ids[1], ids[3]]
    assert [one.id for one in openai.chat.completions.list(metadata={"half": "a", "n": "4"})] == [ids[4]]
    assert len(list(openai.chat.completions.list(model=BASE))) == 5
    assert not list(openai.chat.completions.list(model="ft:gone:default::x"))
    assert not list(openai.chat.completions.list(metadata={"n": 'a" OR "b\\'}))
    with pytest.raises(sdk.BadRequestError) as unknown:
        openai.chat.completions.list(after="chatcmpl-unknown")
    assert unknown.value.param == "after"
    with pytest.raises(sdk.BadRequestError) as unfit:
        openai.chat.completions.list(metadata={"a key": "x"})
    assert unfit.value.param == "metadata"


def test_a_tuned_model_is_shown_and_found_under_its_own_name(openai: OpenAI, log: Remembering) -> None:
    name, version = "ft:smollm2-135m-instruct:default:bot:x", "projects/default/models/ftjob-x/versions/1"
    backends = log.gateway.backends
    recipe = training_pb2.TrainingRecipe(base_model=BASE_URI, suffix="bot")
    job = training_pb2.TrainingJob(name="projects/default/trainingJobs/ftjob-x", recipe=recipe, model_version=version)
    job.state = training_pb2.TrainingJob.STATE_SUCCEEDED
    backends.training.jobs[job.name] = job
    backends.registry.versions[version] = registry_pb2.ModelVersion(
        name=version, base_model=BASE_URI, training_job=job.name, recipe=recipe
    )
    backends.inference.bases[version] = BASE_URI
    answer = ask(openai, model=name, store=True)
    ask(openai, store=True)
    log.remember()
    assert openai.chat.completions.retrieve(answer.id).model == answer.model == name
    assert [one.id for one in openai.chat.completions.list(model=name)] == [answer.id]
    del backends.registry.versions[version]
    assert openai.chat.completions.retrieve(answer.id).model == version  # the model is gone, the exchange is not


def test_metadata_are_replaced_and_nothing_else(openai: OpenAI, log: Remembering) -> None:
    answer = ask(openai, store=True, metadata={"old": "1"})
    log.remember()
    changed = openai.chat.completions.update(answer.id, metadata={"new": "2"})
    assert changed.model_dump()["metadata"] == {"new": "2"}
    assert openai.chat.completions.retrieve(answer.id).model_dump()["metadata"] == {"new": "2"}
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.chat.completions.update(answer.id, metadata={"k": "v" * 513})
    assert caught.value.param == "metadata.k"
    with pytest.raises(sdk.BadRequestError) as extra:
        openai.chat.completions.update(answer.id, metadata={}, extra_body={"model": "other"})
    assert extra.value.code == "unknown_parameter"


def test_a_deleted_completion_is_gone(openai: OpenAI, log: Remembering) -> None:
    answer = ask(openai, store=True)
    log.remember()
    deleted = openai.chat.completions.delete(answer.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (answer.id, "chat.completion.deleted", True)
    for call in (
        lambda: openai.chat.completions.retrieve(answer.id),
        lambda: openai.chat.completions.delete(answer.id),
        lambda: openai.chat.completions.update(answer.id, metadata={}),
        lambda: openai.chat.completions.messages.list(answer.id),
        lambda: openai.chat.completions.retrieve("NO SUCH ID"),
    ):
        with pytest.raises(sdk.NotFoundError) as caught:
            call()
        assert caught.value.param == "completion_id"


def test_messages_are_what_was_asked_each_with_an_id(openai: OpenAI, log: Remembering) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    asked = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi", "name": "anna"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
    ]
    answer = ask(openai, messages=asked, store=True)
    log.remember()
    listed = openai.chat.completions.messages.list(answer.id)
    told: list[Any] = [one.model_dump() for one in listed.data]
    assert [one["id"] for one in told] == [f"{answer.id}-{number}" for number in range(4)]
    assert [(one["role"], one["content"]) for one in told] == [(one["role"], one["content"]) for one in asked]
    assert (told[1]["name"], told[3]["tool_call_id"]) == ("anna", "c1")
    assert told[2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Köln"}'}
    newest = openai.chat.completions.messages.list(answer.id, order="desc", limit=1)
    assert ([one.id for one in newest.data], newest.has_more) == ([f"{answer.id}-3"], True)
    rest = openai.chat.completions.messages.list(answer.id, after=f"{answer.id}-1")
    assert [one.id for one in rest] == [f"{answer.id}-2", f"{answer.id}-3"]


def test_projects_do_not_see_each_others_answers(openai: OpenAI, log: Remembering) -> None:
    answer = ask(openai, store=True)
    log.remember()
    other = log.gateway.client("key-two")
    with pytest.raises(sdk.NotFoundError):
        other.chat.completions.retrieve(answer.id)
    assert not list(other.chat.completions.list())
    assert len(list(openai.chat.completions.list())) == 1


def test_an_answer_is_judged_and_the_judgement_read(openai: OpenAI, log: Remembering) -> None:
    answer = ask(openai, store=True)
    log.remember()
    path = f"/chat/completions/{answer.id}/feedback"
    body = {"value": 0.25, "comment": "wrong city", "correction": "Köln", "author": "anna", "metadata": {"k": "v"}}
    headers = {"Idempotency-Key": "once"}
    given = [openai.post(path, body=body, cast_to=dict[str, Any], options={"headers": headers}) for _ in range(2)]
    assert given[0] == given[1]
    assert given[0] == {
        **body,
        "id": given[0]["id"],
        "object": "chat.completion.feedback",
        "created": given[0]["created"],
        "completion_id": answer.id,
    }
    openai.post(path, body={"value": 1}, cast_to=httpx.Response)
    listed = openai.get(path, cast_to=dict[str, Any])
    assert [one["value"] for one in listed["data"]] == [0.25, 1]
    for wrong in ({}, {"value": 2}, {"value": "good"}, {"stars": 5}):
        with pytest.raises(sdk.BadRequestError):
            openai.post(path, body=wrong, cast_to=httpx.Response)
    with pytest.raises(sdk.NotFoundError):
        openai.post("/chat/completions/none/feedback", body={"value": 1}, cast_to=httpx.Response)
