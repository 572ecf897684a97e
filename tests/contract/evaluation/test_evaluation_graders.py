"""Graders that ask, over real gRPC and HTTP: alone and in runs, with what they cost and what they were told kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import inference_pb2
from tests.contract.evaluation.conftest import PARENT, Room, exact
from tests.contract.evaluation.peers import VERSION, Peers, Trouble, conversations, right_answer
from tests.contract.evaluation.test_evaluation_api import refusal_of

SECRET = "Bearer hidden-7"


class Server(ThreadingHTTPServer):
    """Grades by `answers` in turn, (status, JSON); as a judge it gives 0.75."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, object]] = [(200, {"score": 0.5})]
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        if self.path.endswith("/chat/completions"):
            content = json.dumps({"steps": [], "result": 0.75})
            message = {"role": "assistant", "content": content}
            usage = {"prompt_tokens": 8, "completion_tokens": 3}
            chat = {"model": "big-1", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
            return self._send(200, chat)
        answers = self.server.answers
        return self._send(*(answers.pop(0) if len(answers) > 1 else answers[0]))

    def _send(self, status: int, answer: object) -> None:
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("location", f"{self.server.url}/elsewhere")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        """Tests say what went wrong."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.shutdown()
    made.server_close()


def judge(**fields: Any) -> pb.Grader:
    turn = pb.TemplateMessage(role=common.ROLE_USER, text="Judge {{ sample.output_text }} of message 3")
    return pb.Grader(name="style", score_model=pb.ScoreModelGrader(model="judge", input=[turn], **fields))


def endpoint(url: str, **fields: Any) -> pb.Grader:
    return pb.Grader(name="server", endpoint=pb.EndpointGrader(url=f"{url}/grade?v=1", **fields))


def secret_headers(server: Server) -> SecretStr:
    return SecretStr(json.dumps({"mine": {"url_prefix": f"{server.url}/grade", "headers": {"authorization": SECRET}}}))


def cosine(model: str = "") -> pb.Grader:
    metric = pb.TextSimilarityGrader.METRIC_COSINE
    kind = pb.TextSimilarityGrader(
        input="{{ sample.output_text }}", reference="abcdef", evaluation_metric=metric, model=model
    )
    return pb.Grader(name="near", text_similarity=kind)


def likely(model: str = "") -> pb.Grader:
    likelihood = pb.ChoiceLikelihood(model=model, prompt="Q: ")
    return pb.Grader(
        name="likely", choice=pb.ChoiceGrader(reference="no", options=["maybe", "no"], likelihood=likelihood)
    )


def answering(result: object) -> Any:
    """Judges with `result` where an answer must follow a schema, and routes rightly elsewhere."""

    def reply(request: inference_pb2.ChatRequest) -> str:
        if not request.sampling.HasField("response_format"):
            return right_answer(request)
        return json.dumps({"steps": [], "result": result})

    return reply


async def run(room: Room, grader: pb.Grader, answer: str = "refund") -> pb.RunGraderResponse:
    message = common.Message(role=common.ROLE_ASSISTANT, parts=[common.Part(text=answer)])
    return await room.stub.RunGrader(pb.RunGraderRequest(parent=PARENT, grader=grader, sample=message))


async def restarted(room: Room, **settings: Any) -> None:
    await room.stop()
    room.settings = room.settings.model_copy(update=settings)
    await room.start()


async def test_a_judge_gives_a_number_of_its_own_range(room: Room, peers: Peers) -> None:
    peers.inference.reply = answering(4)
    trial = await run(room, judge(range_high=5, sampling=common.SamplingParams(n=3, temperature=1, seed=7)))
    assert (trial.grade.value, trial.grade.raw, trial.grade.passed) == (pytest.approx(0.8), 4.0, True)
    assert (trial.usage.total_tokens, trial.usage_by_model["judge"].prompt_tokens) == (36, 30)
    assert trial.grade.judge.identity.model_version == peers.inference.version
    assert (trial.grade.judge.instructions, len(trial.grade.more_judgements)) == ("score/1", 2)
    assert [turn.role for turn in trial.grade.judge.prompt] == [common.ROLE_SYSTEM, common.ROLE_USER]
    assert not trial.grade.more_judgements[0].prompt
    asked = peers.inference.requests[-3:]
    assert sorted(request.sampling.seed for request in asked) == [7, 8, 9]
    form = asked[0].sampling.response_format.json_schema
    assert (form.strict, form.schema["required"]) == (True, ["steps", "result"])


async def test_a_judge_that_cannot_be_asked_leaves_the_answer_ungraded(room: Room, peers: Peers) -> None:
    def refuse(request: inference_pb2.ChatRequest) -> str:
        raise Trouble(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")

    peers.inference.reply = refuse
    trial = await run(room, judge())
    assert not trial.grade.HasField("value")
    assert trial.grade.error.kind == pb.GraderError.KIND_JUDGE
    assert "MODEL_NOT_FOUND" in trial.grade.error.message


async def test_embeddings_and_likelihoods_are_asked_of_inference(room: Room, peers: Peers) -> None:
    assert (await run(room, cosine("embedder"))).grade.value == pytest.approx(1.0)
    assert (await run(room, cosine("embedder"), "a")).grade.value == pytest.approx(0.8137, abs=1e-3)
    trial = await run(room, likely("scorer"))
    assert (trial.grade.value, trial.grade.label, trial.grade.expected_label) == (1.0, "no", "no")
    lost = await run(room, likely())
    assert lost.grade.error.kind == pb.GraderError.KIND_MODEL
    assert peers.inference.projects == {PARENT}
    refusal = await refusal_of(run(room, cosine()))
    assert (refusal.reason, refusal.fields[0].field) == ("GRADER_MODEL_MISSING", "grader.text_similarity.model")
    await restarted(room, evaluation_embedding_model="embedder")
    assert (await run(room, cosine())).grade.value == pytest.approx(1.0)


async def test_a_run_keeps_what_judges_said_and_waits_for_them(room: Room, peers: Peers) -> None:
    peers.ingestion.versions[VERSION] = {"train": conversations(4)}
    down = [2]

    def reply(request: inference_pb2.ChatRequest) -> str:
        if request.sampling.HasField("response_format") and down[0] > 0:
            down[0] -= 1
            raise Trouble(grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")
        return str(answering(0.75)(request))

    peers.inference.reply = reply
    multi = pb.MultiGrader(calculate_output="(style + exact) / 2")
    for name, inner in (("style", judge()), ("exact", exact())):
        multi.graders[name].CopyFrom(inner)
    eval_ = await room.eval(exact(), judge(), likely(), pb.Grader(name="both", multi=multi))
    measured = await room.measured(eval_.name, model="router")
    means = {result.grader: (result.n, result.mean) for result in measured.results}
    assert means == {"exact": (4, 1.0), "style": (4, 0.75), "likely": (4, 1.0), "both": (4, 0.875)}
    items = await room.stub.ListOutputItems(pb.ListOutputItemsRequest(parent=measured.name))
    for item in items.output_items:
        grades = {grade.grader: grade for grade in item.grades}
        assert list(grades) == ["exact", "style", "likely", "both"]
        assert grades["style"].judge.model == "judge"
        assert dict(grades["both"].parts) == {"style": 0.75, "exact": 1.0}
        assert json.loads(grades["both"].judge.answer)["result"] == 0.75
        assert grades["likely"].label == "no"
    calls = [grade.judge.usage for item in items.output_items for grade in item.grades if grade.HasField("judge")]
    used = measured.judge_usage
    assert (used.prompt_tokens, used.completion_tokens) == (
        sum(one.prompt_tokens for one in calls),
        sum(one.completion_tokens for one in calls),
    )
    assert used.total_tokens > 0
    assert dict(measured.judge_usage_by_model) == {"judge": used}


async def test_a_run_whose_judge_stays_away_fails_and_keeps_only_what_was_judged(room: Room, peers: Peers) -> None:
    await restarted(room, evaluation_patience_seconds=0.5)
    peers.ingestion.versions[VERSION] = {"train": conversations(12)}
    judged = []

    def reply(request: inference_pb2.ChatRequest) -> str:
        if request.sampling.HasField("response_format"):
            judged.append(request)
            if len(judged) > 3:
                raise Trouble(grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")
        return str(answering(0.75)(request))

    peers.inference.reply = reply
    failed = await room.measured((await room.eval(exact(), judge())).name, model="router")
    assert (failed.state, failed.failure.reason) == (pb.EvalRun.STATE_FAILED, "SERVER_STOPPING")
    assert failed.failure.retryable
    items = await room.stub.ListOutputItems(pb.ListOutputItemsRequest(parent=failed.name))
    assert [len(item.grades) for item in items.output_items] == [2, 2, 2]
    assert {grade.value for item in items.output_items for grade in item.grades} == {0.75, 1.0}


async def test_a_server_of_the_users_grades_where_the_installation_lets_it(room: Room, server: Server) -> None:
    refusal = await refusal_of(run(room, endpoint(server.url)))
    assert (refusal.reason, refusal.fields[0].field) == ("GRADER_URL_INVALID", "grader.endpoint.url")
    refusal = await refusal_of(run(room, endpoint(server.url.replace("http:", "https:"))))
    assert (refusal.reason, refusal.metadata["address"]) == ("GRADER_ADDRESS_REFUSED", "127.0.0.1")
    by_name = await run(room, endpoint("https://localhost:1"))
    assert by_name.grade.error.kind == pb.GraderError.KIND_ENDPOINT
    assert "private network" in by_name.grade.error.message
    assert server.seen == []

    headers = secret_headers(server)
    await restarted(room, evaluation_private_endpoints=True, evaluation_grader_headers=headers)
    trial = await run(room, endpoint(server.url, headers_secret="mine"))
    assert trial.grade.value == 0.5
    path, sent, body = server.seen[-1]
    assert (path, sent["authorization"], body["sample"]["output_text"]) == ("/grade?v=1", SECRET, "refund")
    for url, name in ((server.url, "theirs"), (f"{server.url}/other", "mine")):
        refusal = await refusal_of(run(room, endpoint(url, headers_secret=name)))
        assert refusal.reason == "GRADER_HEADERS_UNKNOWN"
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("answers", "value", "why", "posts"),
    [
        ([(500, {}), (200, {"score": 1})], 1.0, "the server gave 1", 2),
        ([(404, {})], None, "status 404", 1),
        ([(302, {})], None, "status 302", 1),
        ([(200, b"no json")], None, "did not answer with JSON", 1),
        ([(200, b'"' + b"x" * 1_100_000 + b'"')], None, "more than 1048576 bytes", 1),
        ([(200, {"points": 1})], None, "did not answer {", 1),
    ],
)
async def test_a_servers_answer_counts_or_says_why_not(
    room: Room, server: Server, answers: list[tuple[int, object]], value: float | None, why: str, posts: int
) -> None:
    headers = secret_headers(server)
    await restarted(room, evaluation_private_endpoints=True, evaluation_grader_headers=headers)
    server.answers = list(answers)
    grade = (await run(room, endpoint(server.url, headers_secret="mine"))).grade
    assert (grade.value if grade.HasField("value") else None) == value
    assert why in grade.why
    assert SECRET not in str(grade)
    assert len(server.seen) == posts
    assert all(path.startswith("/grade") for path, _, _ in server.seen)


async def test_a_judge_outside_is_asked_as_the_installation_says(room: Room, server: Server, peers: Peers) -> None:
    outside = {"judge": {"base_url": f"{server.url}/v1", "model": "big", "api_key": "hidden-7"}}
    await restarted(room, evaluation_judges=SecretStr(json.dumps(outside)))
    trial = await run(room, judge())
    assert (trial.grade.value, trial.usage.total_tokens) == (0.75, 11)
    assert trial.grade.judge.identity.model_version == "127.0.0.1/big-1"
    path, sent, body = server.seen[-1]
    assert (path, sent["authorization"], body["model"]) == ("/v1/chat/completions", SECRET, "big")
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["steps", "result"]
    assert (body["temperature"], body["max_completion_tokens"]) == (0.0, 2048)
    assert peers.inference.requests == []
    await restarted(room, offline=True)
    assert (await run(room, judge())).grade.value == 0.75, "a judge of this network is no way out"
