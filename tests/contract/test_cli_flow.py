"""The whole way of a model by the command line alone, on a tiny one; a platform that goes down loses no work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feinschliff.cli.demo_steps import sample
from feinschliff.kit.client import bare_channel
from feinschliff.v1 import training_pb2, training_pb2_grpc
from tests.contract.test_cli_platform import Cli
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(420)
JOB_SECONDS_MAX = 200.0
ROWS = 160  # some 170 steps: enough to be interrupted in, on any machine


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    made = Cli(tmp_path_factory.mktemp("flow"), seconds_max=JOB_SECONDS_MAX)
    try:
        made("up", "--detach")
        yield made
    finally:
        made("down")
    assert made.leftovers() == []


@pytest.fixture(scope="module")
def data(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset with rows for training, validation and test."""
    file = tmp_path_factory.mktemp("rows") / "routing.jsonl"
    turns = [
        [{"role": "user", "content": row.question}, {"role": "assistant", "content": row.answer}]
        for row in sample("train")[:ROWS]
    ]
    file.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns), "utf-8")
    cli("dataset", "push", str(file), "--name", "routing", "--validation", "0.1", "--test", "0.2")
    return "routing"


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> str:
    return f"file:{tiny_model}"


@pytest.fixture(scope="module")
def trained(cli: Cli, data: str, base: str) -> Any:
    """A job that was interrupted by `down` and went on at the next `up`."""
    words = ("--epochs", "6", "--batch-size", "4", "--learning-rate", "1e-3", "--output-model", "intents")
    job = cli.json("train", data, "--base", base, *words, "--suffix", "flow")
    name = job["name"].rsplit("/", 1)[1]
    eventually(lambda: seen(cli, name).metrics.step >= 5, JOB_SECONDS_MAX, "the fifth step")
    assert int(listed(cli, name)["metrics"]["step"]) >= 5
    cli("down")
    assert cli.leftovers() == [], "a trainer was left behind"
    cli("up", "--detach")
    lines = [json.loads(line) for line in cli("watch", name, "--json").stdout.splitlines()]
    return {"name": name, "events": [line["event"] for line in lines if "event" in line], "job": lines[-1]["job"]}


def seen(cli: Cli, name: str) -> training_pb2.TrainingJob:
    """The job as it is now, by a call of ours: a command at every look would take the time that the job needs."""
    address = f"127.0.0.1:{cli.state().ports['training_port']}"
    with bare_channel(address) as channel:
        request = training_pb2.GetTrainingJobRequest(name=f"projects/default/trainingJobs/{name}")
        found: training_pb2.TrainingJob = training_pb2_grpc.TrainingServiceStub(channel).GetTrainingJob(request)
    return found


def listed(cli: Cli, name: str) -> Any:
    [job] = [one for one in cli.json("jobs") if one["name"].endswith(name)]
    return job


def test_a_job_goes_on_where_it_was_when_the_platform_went_down(trained: Any) -> None:
    assert trained["job"]["state"] == "STATE_SUCCEEDED"
    assert trained["job"]["attempt_count"] == 2
    starts = [event["attempt"] for event in trained["events"] if event.get("attempt", {}).get("started")]
    assert starts[1]["from_step"] >= 5
    steps = [event["metrics"]["step"] for event in trained["events"] if event["key"].startswith("metrics/step/")]
    assert steps == list(range(1, trained["job"]["metrics"]["steps_total"] + 1))


def test_a_plan_tells_what_the_job_came_to(cli: Cli, trained: Any, data: str, base: str) -> None:
    words = ("plan", data, "--base", base, "--epochs", "6", "--batch-size", "4", "--learning-rate", "1e-3")
    plan, made = cli.json(*words), trained["job"]["metrics"]
    assert (plan["steps"], plan["train_tokens"]) == (made["steps_total"], made["trained_tokens"])
    assert (plan["fits"], plan["speed_samples"]) == (True, 1)
    assert plan["seconds_low"] < plan["seconds"] < plan["seconds_high"]
    assert "MEMORY OF A PROCESS" in cli(*words).stdout


def test_a_watcher_that_comes_later_sees_what_it_has_not_seen(cli: Cli, trained: Any) -> None:
    seen = trained["events"]
    middle = seen[len(seen) // 2]["cursor"]
    lines = [
        json.loads(line)
        for line in cli("watch", trained["name"], "--cursor", str(middle), "--json").stdout.splitlines()
    ]
    assert [line["event"] for line in lines if "event" in line] == [event for event in seen if event["cursor"] > middle]


def test_the_result_is_a_model_with_its_lineage(cli: Cli, trained: Any) -> None:
    version = cli.json("models", "show", "intents")
    assert version["name"] == trained["job"]["model_version"] == "projects/default/models/intents/versions/1"
    graph = cli.json("models", "lineage", "intents")
    assert {node["kind"] for node in graph["nodes"]} == {
        "model_version",
        "training_job",
        "dataset_version",
        "base_model",
    }
    assert "intents/1" in cli("models").stdout
    cli("models", "alias", "intents", "production", "--reason", "it is the first")
    assert cli.json("models", "show", "intents")["aliases"] == ["production"]


def test_nothing_answers_before_it_is_deployed_and_the_advice_helps(cli: Cli, trained: Any, base: str) -> None:
    refused = cli("chat", "intents", "hello", expect=1)
    assert "MODEL_NOT_LOADED" in refused.stderr
    assert "feinschliff deploy intents/1" in refused.stderr
    deployed = cli.json("deploy", "intents/1")
    assert deployed["state"] == "STATE_READY"
    assert deployed["base_model"] == base
    assert "DEPLOYMENT_OF_OTHER_PRECISION" in cli("deploy", "intents/1", "--precision", "int8", expect=1).stderr
    assert "none of auto" in cli("deploy", "intents/1", "--precision", "int3", expect=2).stderr
    answer = cli.json("chat", "intents", "hello", "--max-tokens", "4", "--temperature", "0")
    assert answer["identity"]["model_version"] == trained["job"]["model_version"]
    assert answer["identity"]["adapter_digest"] == deployed["routes"][0]["adapter_digest"]
    assert answer["usage"]["completion_tokens"] <= 4
    assert (
        cli("chat", "intents", "hello", "--max-tokens", "4", "--temperature", "0").stdout.strip()
        == answer["text"].strip()
    )


def test_two_models_are_measured_and_compared_on_the_same_rows(cli: Cli, trained: Any, data: str, base: str) -> None:
    words = (data, "--split", "test", "--max-tokens", "4", "--deploy")
    runs = [cli.json("eval", "run", model, *words) for model in (base, "intents")]
    assert [run["state"] for run in runs] == ["STATE_COMPLETED"] * 2
    assert runs[0]["name"].rpartition("/")[0] == runs[1]["name"].rpartition("/")[0]
    rows = cli.json("dataset", "show", data)["rows_by_split"]["test"]
    assert [run["overall"]["n"] for run in runs] == [rows, rows]
    compared = cli.json("compare", *(run["name"] for run in runs))
    assert compared["n"] == rows
    assert "p_value" in compared
    evaluation, run = runs[1]["name"].split("/")[3::2]
    assert "95% INTERVAL" in cli("eval", "show", f"{evaluation}/{run}", "--failed", "2").stdout
    assert len(cli.json("eval", "list", evaluation)) == 2


def test_a_job_is_cancelled_for_good(cli: Cli, data: str, base: str) -> None:
    job = cli.json("train", data, "--base", base, "--epochs", "50")
    name = job["name"].rsplit("/", 1)[1]
    cli("cancel", name, "--reason", "not needed")
    ended = cli("watch", name, expect=1)
    assert "CANCELLED" in ended.stdout
    assert "not needed" in ended.stderr


def test_a_job_is_paused_resumed_and_retried(cli: Cli, data: str, base: str) -> None:
    name = cli.json("train", data, "--base", base, "--epochs", "50")["name"].rsplit("/", 1)[1]
    eventually(lambda: seen(cli, name).metrics.step >= 3, JOB_SECONDS_MAX, "the third step")
    cli("pause", name)
    eventually(lambda: seen(cli, name).state == training_pb2.TrainingJob.STATE_PAUSED, 60, "the job is paused")
    assert listed(cli, name)["state"] == "STATE_PAUSED"
    assert "JOB_STATE_FORBIDS" in cli("pause", name, expect=1).stderr
    assert "QUEUED" in cli("resume", name).stdout
    eventually(lambda: seen(cli, name).state == training_pb2.TrainingJob.STATE_RUNNING, 60, "the job runs again")
    cli("cancel", name)
    ended = cli("watch", name, expect=1)
    assert "CANCELLED" in ended.stdout
    assert "Attempt 2 started, going on after step" in ended.stderr
    assert "over" in cli("logs", name, "--attempt", "1").stdout
    assert "QUEUED" in cli("retry", name).stdout
    cli("cancel", name)
    cli("watch", name, expect=1)


def test_a_check_of_a_job_stores_none(cli: Cli, data: str, base: str) -> None:
    before = len(cli.json("jobs"))
    checked = cli.json("train", data, "--base", base, "--epochs", "2", "--check")
    assert checked["resolved_recipe"]["optimisation"]["epochs"] == 2
    assert len(cli.json("jobs")) == before
