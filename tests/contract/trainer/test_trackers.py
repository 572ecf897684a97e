"""Trackers get a job's numbers, over all its attempts, and never anything else of the job."""

from __future__ import annotations

import csv
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from feinschliff.formats.recipe import Mlflow as MlflowSettings
from feinschliff.formats.recipe import Wandb as WandbSettings
from feinschliff.formats.report import Notice, Result
from feinschliff.trainer.trackers.mlflow import Mlflow
from feinschliff.trainer.trackers.tracker import Ending, Point, Run, TrackerRefused
from feinschliff.trainer.trackers.wandb import Wandb
from tests.support.mlflow import Mlflow as Server
from tests.support.mlflow import mlflow_server
from tests.support.trainer import JOB, Workshop, rows

RUN = Run("ftjob-abc", JOB, "ftjob-1", "file:base", {"optimisation": {"learning_rate": 2e-4}, "seed": 0, "suffix": ""})
POINTS = [Point(step, 100.0 + step, {"train/loss": 3.0 - step, "train/tokens": 10.0}) for step in (1, 2)]


@pytest.fixture
def server() -> Iterator[Server]:
    with mlflow_server() as one:
        yield one


def tracker(server: Server, folder: Path, *, secret: str = "", offline: bool = False, url: str = "") -> Mlflow:
    settings = MlflowSettings(tracking_uri=url or server.url, experiment="routing", credentials_secret=secret)
    return Mlflow(settings, RUN, secrets=folder, offline=offline)


def secret(folder: Path, name: str, **values: str) -> None:
    (folder / name).mkdir()
    for key, value in values.items():
        (folder / name / key).write_text(f"{value}\n", "utf-8")


def test_a_second_attempt_goes_on_with_the_run_of_the_first(server: Server, tmp_path: Path) -> None:
    first = tracker(server, tmp_path)
    first.open()
    first.log(POINTS[:1])
    first.close(Ending.INTERRUPTED)
    (run,) = server.runs.values()
    assert (run.name, run.status) == ("ftjob-1", "RUNNING")
    assert run.tags["feinschliff.job"] == JOB
    assert run.parameters == {"optimisation.learning_rate": "0.0002", "seed": "0"}

    second = tracker(server, tmp_path)
    second.open()
    second.log(POINTS[1:])
    second.close(Ending.FINISHED)
    assert list(server.runs) == [run.id]
    assert run.metrics == [
        ("train/loss", 1, 2.0),
        ("train/tokens", 1, 10.0),
        ("train/loss", 2, 1.0),
        ("train/tokens", 2, 10.0),
    ]
    assert run.status == "FINISHED"


@pytest.mark.parametrize(
    ("values", "header"),
    [
        ({"username": "ann", "password": "hush"}, "Basic YW5uOmh1c2g="),
        ({"token": "hush"}, "Bearer hush"),
    ],
)
def test_a_secret_opens_its_own_host_alone(server: Server, tmp_path: Path, values: dict[str, str], header: str) -> None:
    server.authorization = header
    secret(tmp_path, "mine", host="127.0.0.1", **values)
    secret(tmp_path, "other", host="elsewhere.example", **values)
    one = tracker(server, tmp_path, secret="mine")
    one.open()
    assert len(server.runs) == 1
    server.calls.clear()
    with pytest.raises(TrackerRefused, match=r"elsewhere\.example"):
        tracker(server, tmp_path, secret="other").open()
    with pytest.raises(TrackerRefused, match="'none'"):
        tracker(server, tmp_path, secret="none").open()
    assert server.calls == []
    with pytest.raises(TrackerRefused, match="401"):
        tracker(server, tmp_path).open()


def test_a_password_follows_no_redirection(server: Server, tmp_path: Path) -> None:
    server.answers_with = 302
    with pytest.raises(TrackerRefused, match="302"):
        tracker(server, tmp_path).open()
    assert server.calls == ["experiments/get-by-name"]


def test_what_may_pass_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.answers_with = 503
    one = tracker(server, tmp_path)
    with pytest.raises(OSError, match="503"):
        one.open()
    server.answers_with = 0
    one.open()
    one.log(POINTS)
    assert len(server.runs) == 1


@pytest.mark.parametrize("url", ["https://tracking.example.com", "https://8.8.8.8", "databricks", "file:/tmp/runs"])
def test_an_offline_installation_calls_nobody_outside(server: Server, tmp_path: Path, url: str) -> None:
    with pytest.raises(TrackerRefused):
        tracker(server, tmp_path, offline=True, url=url).open()
    tracker(server, tmp_path, offline=True).open()


def workshop(folder: Path, base: Path, url: str) -> Workshop:
    one = Workshop(folder, base, train=rows(12), validation=rows(3, first=50))
    one.recipe = {
        "optimisation": {"epochs": 2, "batch_size": 4},
        "checkpointing": {"every_steps": 2},
        "trackers": [{"mlflow": {"tracking_uri": url, "experiment": "routing"}}],
    }
    return one


def warnings(one: Workshop) -> list[str]:
    return [
        posted.report.message
        for posted in one.reports()
        if isinstance(posted.report, Notice) and posted.report.level == "warning"
    ]


def test_a_killed_and_resumed_job_is_one_run_with_every_number(
    tmp_path: Path, tiny_model: Path, server: Server
) -> None:
    one = workshop(tmp_path, tiny_model, server.url)
    one.run(failpoints="step.after=kill@5", expect=-signal.SIGKILL)
    one.run(attempt=2)
    (run,) = server.runs.values()
    history = csv.DictReader(io.StringIO(one.store.get_bytes(f"{JOB}/result/metrics.csv").decode()))
    losses = {(int(line["step"]), float(line["train_loss"])) for line in history}
    assert {(step, value) for name, step, value in run.metrics if name == "train/loss"} <= losses
    assert {(5, "train/loss"), (6, "train/loss"), (6, "validation/loss")} <= {
        (step, name) for name, step, _ in run.metrics
    }
    assert (run.status, warnings(one)) == ("FINISHED", [])
    assert run.parameters["optimisation.batch_size"] == "4"
    assert "trackers" not in run.parameters


def test_a_server_that_is_not_there_costs_a_warning(tmp_path: Path, tiny_model: Path) -> None:
    one = workshop(tmp_path, tiny_model, "http://127.0.0.1:9")
    one.environment = {"FEINSCHLIFF_TRAINER_TRACKER_SECONDS": "1"}
    result = one.run()
    assert result is not None
    assert Result.model_validate(result.meta).energy_source in ("model", "rapl")
    (told,) = warnings(one)
    assert "mlflow" in told
    assert "goes on without it" in told


def test_a_server_that_hangs_holds_the_end_up_for_a_moment_only(
    tmp_path: Path, tiny_model: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hangs = threading.Event()
    one = workshop(tmp_path, tiny_model, server.url)
    one.environment = {"FEINSCHLIFF_TRAINER_TRACKER_SECONDS": "0.5"}
    begun = time.monotonic()
    assert one.run() is not None
    assert time.monotonic() - begun < 60
    assert ["in time" in told for told in warnings(one)] == [True]


def wandb(folder: Path, kept: list[Path], *, offline: bool = True) -> Wandb:
    (folder / "work").mkdir(exist_ok=True)
    settings = WandbSettings(project="routing", tags=["nightly"])
    return Wandb(settings, RUN, secrets=folder / "secrets", folder=folder / "work", offline=offline, keep=kept.append)


def test_an_offline_installation_keeps_the_files_of_wandb(tmp_path: Path) -> None:
    kept: list[Path] = []
    one = wandb(tmp_path, kept)
    one.open()
    one.log(POINTS)
    one.close(Ending.FINISHED)
    (path,) = kept
    assert path.name == "run-ftjob-abc.wandb"
    written = path.read_bytes()
    assert all(word in written for word in (b"train/loss", b"routing", b"nightly", b"learning_rate"))
    assert not any(word in written for word in (str(Path.cwd()).encode(), b"pytest"))


def test_a_process_of_wandb_that_died_begins_again_and_one_that_hangs_is_ended(tmp_path: Path) -> None:
    one = wandb(tmp_path, [])
    one.open()
    os.killpg(os.getpgid(child_of(one)), signal.SIGKILL)
    with pytest.raises(OSError, match=r"ended|Broken pipe"):
        one.log(POINTS)
    one.open()
    one.log(POINTS)
    one.abandon()


def child_of(one: Wandb) -> int:
    assert one._child is not None
    return one._child.pid


def test_wandb_needs_a_key_to_go_out(tmp_path: Path) -> None:
    with pytest.raises(TrackerRefused, match="api_key"):
        wandb(tmp_path, [], offline=False).open()


def test_wandb_that_is_not_installed_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrackerRefused, match="extra"):
        wandb(tmp_path, []).open()
