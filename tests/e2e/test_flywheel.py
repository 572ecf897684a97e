"""The data's whole way by gRPC: upload, measure, train, measure again, compare, serve beside the base."""

from __future__ import annotations

import json
import urllib.request

import grpc
import pytest
from google.rpc import error_details_pb2

from feinschliff.kit.errors import Refusal, from_rpc_error
from feinschliff.v1 import (
    common_pb2,
    evaluation_pb2,
    inference_pb2,
    ingestion_pb2,
    registry_pb2,
    training_pb2,
)
from tests.support.platform import Platform
from tests.support.waiting import eventually

WORDS = ("order", "refund", "invoice", "delivery")
PARENT = "projects/default"


def chat_rows(count: int, first: int = 0) -> bytes:
    """Different questions with one answer: what even a tiny model learns in seconds."""
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"hello {'please ' * (index % 5)}help with my {WORDS[index % 4]} {index}"},
                {"role": "assistant", "content": "refund"},
            ]
        }
        for index in range(first, first + count)
    )
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def evaluate(platform: Platform, eval_name: str, model: str) -> evaluation_pb2.EvalRun:
    run = evaluation_pb2.EvalRun(model=model)
    request = evaluation_pb2.CreateEvalRunRequest(parent=eval_name, eval_run=run)
    name = platform.evaluation.CreateEvalRun(request).name
    last = evaluation_pb2.EvalRun()
    for seen in platform.evaluation.WatchEvalRun(evaluation_pb2.WatchEvalRunRequest(name=name), timeout=120):
        if seen.HasField("eval_run"):
            last.CopyFrom(seen.eval_run)
    assert last.state == evaluation_pb2.EvalRun.STATE_COMPLETED, last
    return last


def deploy(platform: Platform, base: str, deployment_id: str) -> inference_pb2.Deployment:
    wanted = inference_pb2.Deployment(base_model=base, on_demand=True)
    request = inference_pb2.CreateDeploymentRequest(parent=PARENT, deployment_id=deployment_id, deployment=wanted)
    name = platform.deployments.CreateDeployment(request).name

    def ready() -> bool:
        seen = platform.deployments.GetDeployment(inference_pb2.GetDeploymentRequest(name=name))
        assert seen.state != inference_pb2.Deployment.STATE_FAILED, seen.failure
        return bool(seen.state == inference_pb2.Deployment.STATE_READY)

    eventually(ready, 120, f"{name} is ready")
    return platform.deployments.GetDeployment(inference_pb2.GetDeploymentRequest(name=name))


@pytest.mark.timeout(300)
def test_data_becomes_a_better_model_that_is_served(platform: Platform, base: str) -> None:
    train = platform.push("routing", chat_rows(60), train_fraction=0.85, validation_fraction=0.15)
    test = platform.push("routing-test", chat_rows(24, first=1000), test_fraction=1.0)
    assert train.rows == 60
    assert sum(train.rows_by_split.values()) == 60
    assert train.tokens > 0

    deploy(platform, base, "words")
    grader = evaluation_pb2.Grader(
        name="exact",
        string_check=evaluation_pb2.StringCheckGrader(
            input="{{sample.output_text}}",
            reference="{{item.completion}}",
            operation=evaluation_pb2.StringCheckGrader.OPERATION_EQ,
        ),
    )
    wanted = evaluation_pb2.Eval(dataset_version=test.name, graders=[grader])
    created = platform.evaluation.CreateEval(evaluation_pb2.CreateEvalRequest(parent=PARENT, eval=wanted))
    before = evaluate(platform, created.name, base)

    job = platform.wait_job(platform.train(train.name, base, epochs=12, batch_size=4, learning_rate=2e-2).name)
    assert job.state == training_pb2.TrainingJob.STATE_SUCCEEDED, job.failure
    assert job.consumption.machine_seconds > 0
    assert job.consumption.energy_joules > 0
    assert job.consumption.energy_source in ("model", "rapl")
    version = platform.registry.GetModelVersion(registry_pb2.GetModelVersionRequest(name=job.model_version))
    assert version.dataset_versions[0].sha256 == train.sha256
    assert version.golden_probes
    graph = platform.registry.GetLineage(registry_pb2.GetLineageRequest(name=train.name))
    assert {node.kind for node in graph.nodes} == {"dataset_version", "training_job", "model_version"}

    after = evaluate(platform, created.name, job.model_version)
    assert after.overall.n == before.overall.n == 24
    assert after.identity.adapter_digest == version.adapter_digest
    assert before.identity.adapter_digest == ""
    compared = platform.evaluation.CompareRuns(
        evaluation_pb2.CompareRunsRequest(baseline=before.name, candidate=after.name)
    )
    assert compared.n == 24
    assert compared.wins + compared.losses + compared.ties == 24
    assert compared.candidate_mean - compared.baseline_mean == pytest.approx(compared.difference)
    assert after.overall.mean > before.overall.mean

    question = common_pb2.Message(
        role=common_pb2.ROLE_USER, parts=[common_pb2.Part(text="hello please help with my refund 77")]
    )
    chat = inference_pb2.ChatRequest(
        model=job.model_version,
        messages=[question],
        sampling=common_pb2.SamplingParams(temperature=0, max_tokens=8),
    )
    whole = platform.inference.Chat(chat)
    events = list(platform.inference.ChatStream(inference_pb2.ChatStreamRequest(chat=chat)))
    assert events[0].identity == whole.identity
    assert "".join(event.delta.text for event in events) == "".join(part.text for part in whole.message.parts)
    usage = events[-1].end.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert usage.cached_tokens > whole.usage.cached_tokens, "the second time its beginning is known"


def refusal_of(call) -> Refusal:  # type: ignore[no-untyped-def]
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return from_rpc_error(caught.value)


def test_bad_input_is_refused_with_its_place_and_leaves_nothing(platform: Platform, base: str) -> None:
    def listing() -> set[str]:
        return set(platform.s3.store(platform.bucket).list(""))

    before = listing()
    bad = chat_rows(12) + b'{"messages": [{"role": "user", "content": "hi"}]}\n{"messages": \n'
    refused = refusal_of(lambda: platform.push("bad", bad))
    assert refused.reason == "ROWS_INVALID"
    assert {field.field.split(".")[0] for field in refused.fields} == {"lines[13]", "lines[14]"}
    assert refused.advice
    assert listing() == before
    with pytest.raises(grpc.RpcError):
        platform.datasets.GetDataset(ingestion_pb2.GetDatasetRequest(name=f"{PARENT}/datasets/bad"))

    ready = platform.push("fine", chat_rows(20))
    assert refusal_of(lambda: platform.train(ready.name, base, learning_rate=-1)).fields[0].field == (
        "training_job.recipe.optimisation.learning_rate"
    )
    assert refusal_of(lambda: platform.train(ready.name, "pypi:no-such-model")).reason == "BASE_NOT_INSTALLED"
    jobs = platform.training.ListTrainingJobs(
        training_pb2.ListTrainingJobsRequest(parent=PARENT, filter="state = QUEUED")
    )
    assert not jobs.training_jobs


def test_what_is_declared_and_not_served_says_so(platform: Platform) -> None:
    request = registry_pb2.GetModelCardRequest(name=f"{PARENT}/models/m/versions/1")
    with pytest.raises(grpc.RpcError) as caught:
        platform.registry.GetModelCard(request)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert from_rpc_error(caught.value).reason == "METHOD_UNSERVED"
    assert error_details_pb2.ErrorInfo.DESCRIPTOR.full_name == "google.rpc.ErrorInfo"


@pytest.mark.parametrize("room", ["gateway", "ingestion", "training", "evaluation", "registry", "inference"])
def test_every_metrics_port_counts_handled_calls(platform: Platform, room: str) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{platform.metrics_ports[room]}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert "grpc_server_handled_total" in text
    assert f"feinschliff_{room}_" in text
