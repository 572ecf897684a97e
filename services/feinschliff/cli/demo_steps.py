"""The steps of the demo, each with the clients that people use."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from feinschliff.artifacts.bases import DEFAULT_BASE
from feinschliff.cli import chatting, evals, jobs_view, serving, train, uploads
from feinschliff.cli.services import refusals
from feinschliff.cli.session import Session
from feinschliff.cli.settings import ROOMS, PlatformSettings
from feinschliff.cli.state import PlatformState
from feinschliff.kit.errors import Unavailable, WrongState
from feinschliff.v1 import (
    common_pb2,
    evaluation_pb2,
    inference_pb2,
    ingestion_pb2,
    registry_pb2,
    training_pb2,
)

BASE = DEFAULT_BASE
JOB_ID = "ftjob-demo"
DATASET, HELD_BACK, MODEL, DEPLOYMENT = "routing", "routing-test", "intents", "demo"
RECIPE = train.Wish(
    epochs=3, batch_size=8, learning_rate=1e-3, rank=16, alpha=32, output_model=MODEL, suffix="intents", seed=0
)
VALIDATION = 0.1
INTENTS = {
    "refund": "wants money back",
    "delivery": "asks where a parcel is, or about shipping",
    "login": "cannot sign in, password, locked account",
    "invoice": "needs a bill or a receipt, or a correction of one",
    "cancel": "ends a subscription or a contract",
    "defect": "a product is broken",
    "change": "a new address, name, size or date",
    "praise": "says thanks",
}
INSTRUCTIONS = (
    "You route the messages of a shop's customers, in English and German. Answer with exactly one of these words and"
    " nothing else: " + "; ".join(f"{intent} ({meaning})" for intent, meaning in INTENTS.items()) + "."
)
ANSWER_TOKENS_MAX = 8
QUESTION_ROW = 7  # of the held back rows; any would do
_HTTP_SECONDS = 120.0


class Said(NamedTuple):
    """A question, its answer, and the way it took."""

    way: str
    model: str
    question: str
    expected: str
    answer: str


@dataclass(frozen=True)
class Row:
    """A row of the sample."""

    system: str
    question: str
    answer: str


def sample(name: str) -> list[Row]:
    """The rows of `train` or `test`, in their order."""
    text = (files("feinschliff.cli") / "sample" / f"{name}.jsonl").read_text("utf-8")
    rows = [json.loads(line)["messages"] for line in text.splitlines()]
    return [Row(*(message["content"] for message in messages)) for messages in rows]


def push_sample(session: Session) -> tuple[ingestion_pb2.DatasetVersion, ingestion_pb2.DatasetVersion]:
    """The rows to learn from and those held back, as two datasets."""
    return (
        _push(session, "train", DATASET, uploads.Split(validation=VALIDATION)),
        _push(session, "test", HELD_BACK, uploads.Split(validation=0, test=1)),
    )


def serve_base(session: Session) -> None:
    """The base, with adapters on demand: so the tuned model can be measured before it is released."""
    made = serving.deploy(session, BASE, [], deployment_id=DEPLOYMENT)
    serving.wait_until_settled(session, made.name)


def good_prompt() -> evaluation_pb2.PromptTemplate:
    """What a careful person would try before training: every intent explained, and one solved example of each."""
    examples = {row.answer: row for row in reversed(sample("train"))}
    turns = [(common_pb2.ROLE_SYSTEM, INSTRUCTIONS)]
    for intent in INTENTS:
        turns += [(common_pb2.ROLE_USER, examples[intent].question), (common_pb2.ROLE_ASSISTANT, intent)]
    turns.append((common_pb2.ROLE_USER, "{{ item.messages[1].content }}"))
    messages = [evaluation_pb2.TemplateMessage(role=role, text=text) for role, text in turns]
    return evaluation_pb2.PromptTemplate(messages=evaluation_pb2.TemplateMessages(messages=messages))


def evaluate(
    session: Session, dataset_version: str, model: str, prompt: evaluation_pb2.PromptTemplate | None = None
) -> evaluation_pb2.EvalRun:
    """Exact matches on the held back rows, with the prompt that stands in them or a better one."""
    question = evals.Question(dataset_version, split="test", max_tokens=ANSWER_TOKENS_MAX)
    evaluation = evals.ensure_eval(session.services, session.names.parent, question)
    started = evals.start_run(session.services, evaluation, model, prompt=prompt)
    run = evals.finished(session.services, session.output, started.name, title="evaluating")
    if run.state != evaluation_pb2.EvalRun.STATE_COMPLETED or run.overall.errored or run.overall.ungradable:
        why = run.failure.message or f"{run.overall.errored} rows got no answer, {run.overall.ungradable} no grade."
        raise WrongState(run.failure.reason or "EVAL_INCOMPLETE", why, run=run.name)
    return run


def fine_tune(session: Session, dataset_version: str) -> training_pb2.TrainingJob:
    recipe = train.recipe_of([dataset_version], RECIPE, base=BASE)
    made = train.create(session.services, session.names.parent, recipe, job_id=JOB_ID)
    job = jobs_view.watch_on(session.output, session.services, made.name, title="training", is_silent=True)
    if job.state != training_pb2.TrainingJob.STATE_SUCCEEDED:
        raise WrongState(job.failure.reason or "JOB_NOT_SUCCEEDED", job.failure.message, job=job.name)
    return job


def compare(session: Session, baseline: str, candidate: str) -> evaluation_pb2.RunComparison:
    with refusals():
        request = evaluation_pb2.CompareRunsRequest(baseline=baseline, candidate=candidate)
        return session.services.evaluation.CompareRuns(request)


def deploy(session: Session, model_version: str) -> tuple[registry_pb2.ModelVersion, inference_pb2.Deployment]:
    """The tuned version as what the deployment answers with."""
    with refusals():
        version = session.services.registry.GetModelVersion(registry_pb2.GetModelVersionRequest(name=model_version))
    made = serving.deploy(session, BASE, [model_version], deployment_id=DEPLOYMENT)
    return version, serving.wait_until_settled(session, made.name)


def ask_by_grpc(session: Session, model: str) -> Said:
    row = sample("test")[QUESTION_ROW]
    request = chatting.request_of(model, row.question, system=row.system, max_tokens=ANSWER_TOKENS_MAX, temperature=0)
    answer = chatting.stream(session.services, request)
    return Said("gRPC, streamed", answer.identity.model_version, row.question, row.answer, answer.text)


def ask_by_openai(gateway_url: str, job: str) -> Said:
    """By the `openai` package where it is installed, else by plain HTTP to the same address."""
    row = sample("test")[-QUESTION_ROW]
    turns = [{"role": "system", "content": row.system}, {"role": "user", "content": row.question}]
    public_id = job.rsplit("/", 1)[-1].removeprefix("ftjob-")
    if find_spec("openai") is not None:
        way, model, answer = "openai package", *_by_package(f"{gateway_url}/v1", public_id, turns)
    else:
        way, model, answer = "plain HTTP (openai is not installed)", *_by_http(f"{gateway_url}/v1", public_id, turns)
    return Said(way, model, row.question, row.answer, answer)


def keep_metrics(settings: PlatformSettings, folder: Path) -> Mapping[str, int]:
    """What every metrics port says now, as files; by room, how many calls it handled."""
    folder.mkdir(parents=True, exist_ok=True)
    handled = {}
    for room in ROOMS:
        port = getattr(settings, f"{room}_metrics_port")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_HTTP_SECONDS) as response:
            page = response.read().decode("utf-8")
        (folder / f"{room}.prom").write_text(page, "utf-8")
        lines = [line for line in page.splitlines() if line.startswith("grpc_server_handled_total{")]
        handled[room] = sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)
    return handled


def memory_mb(state: PlatformState | None) -> Mapping[str, float]:
    """Resident memory of every part, MB of 10^6 bytes."""
    parts = state.children.items() if state is not None else ()
    found = {name: child.process.find() for name, child in parts if child.process is not None}
    return {name: process.memory_info().rss / 1e6 for name, process in found.items() if process is not None}


def _push(session: Session, name: str, dataset: str, split: uploads.Split) -> ingestion_pb2.DatasetVersion:
    with as_file(files("feinschliff.cli") / "sample" / f"{name}.jsonl") as file:
        header = uploads.header(f"{session.names.parent}/datasets/{dataset}", file, split=split)
        version = uploads.send(session.services, header, file)
    session.output.note(f"    {dataset}: {version.rows} rows, {version.tokens} tokens")
    return version


def _by_package(base_url: str, public_id: str, turns: list[dict[str, str]]) -> tuple[str, str]:
    from openai import OpenAI

    with OpenAI(base_url=base_url, api_key="any-key-on-loopback", timeout=_HTTP_SECONDS) as client:
        model = _tuned([model.id for model in client.models.list()], public_id)
        messages: Any = turns
        answer = client.chat.completions.create(
            model=model, messages=messages, temperature=0, max_tokens=ANSWER_TOKENS_MAX
        )
        return model, answer.choices[0].message.content or ""


def _by_http(base_url: str, public_id: str, turns: list[dict[str, str]]) -> tuple[str, str]:
    def call(path: str, body: object | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "authorization": "Bearer any-key-on-loopback"}
        request = urllib.request.Request(f"{base_url}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=_HTTP_SECONDS) as response:
            return json.load(response)

    model = _tuned([model["id"] for model in call("/models")["data"]], public_id)
    body = {"model": model, "messages": turns, "temperature": 0, "max_tokens": ANSWER_TOKENS_MAX}
    return model, call("/chat/completions", body)["choices"][0]["message"]["content"]


def _tuned(models: list[str], public_id: str) -> str:
    found = [model for model in models if model.startswith("ft:") and model.endswith(f":{public_id}")]
    if not found:
        raise Unavailable("TUNED_MODEL_UNLISTED", f"The gateway lists no model of {public_id}: {', '.join(models)}.")
    return found[0]
