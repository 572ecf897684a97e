"""Several processes train one job as one would, survive the death of one of them, and stop together."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from feinschliff.artifacts.commit import fetch
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.report import ExitCode
from tests.support import members
from tests.support.ports import free_port
from tests.support.trainer import JOB, Workshop, rows
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(600)

STEPS = 6
OPTIMISATION = {
    "epochs": 2, "batch_size": 6, "learning_rate": 5e-3, "warmup_fraction": 0.1, "micro_batch_tokens": 64,
}  # fmt: skip
RECIPE: dict[str, object] = {
    "optimisation": OPTIMISATION,
    "checkpointing": {"every_steps": 2},
    "validation": {"every_steps": 3},
}
FULL = {"adaptation": {"kind": "full"}, "optimisation": {**OPTIMISATION, "learning_rate": 5e-4}}
MakeJob = Callable[..., Workshop]
Machines = tuple[Workshop, list[ForkServerProcess]]


@pytest.fixture(scope="module")
def job(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeJob]:
    """Jobs of six steps, with two processes unless the recipe says otherwise."""
    made: list[Workshop] = []

    def make(**recipe: object) -> Workshop:
        one = Workshop(tmp_path_factory.mktemp("job") / "job", tiny_model, train=rows(18), validation=rows(4, first=50))
        one.recipe = {**RECIPE, "processes_per_node": 2, **recipe}
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def calm(job: MakeJob) -> Workshop:
    """Two processes, undisturbed."""
    one = job()
    one.run()
    return one


class Numbers(NamedTuple):
    train: list[float]
    validation: list[float]


def numbers(one: Workshop) -> Numbers:
    text = b"".join(one.store.open(f"{JOB}/result/metrics.csv")).decode()
    lines = list(csv.DictReader(io.StringIO(text)))
    measured = [float(line["valid_loss"]) for line in lines if line["valid_loss"]]
    return Numbers([float(line["train_loss"]) for line in lines], measured)


def digest(manifest: Manifest | None) -> str:
    assert manifest is not None
    return manifest.digest


def at_step(one: Workshop, step: int, **start: object) -> ForkServerProcess:
    """A started job that has reported so many steps."""
    process = one.start(failpoints="step.after=delay:0.3", **start)  # type: ignore[arg-type]
    eventually(lambda: f"metrics/step/{step}" in one.reported_keys(), 90, "the step")
    return process


def test_all_that_processes_do_together(tmp_path: Path) -> None:
    def one(place: int) -> subprocess.Popen[bytes]:
        seat = {"RANK": str(place), "LOCAL_RANK": str(place), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        seat |= {"TORCHELASTIC_RESTART_COUNT": "0", "GLOO_SOCKET_IFNAME": "lo"}
        command = [sys.executable, "-m", "tests.support.crew_program", str(tmp_path)]
        return subprocess.Popen(command, env={**os.environ, **seat}, stdout=subprocess.PIPE)

    crew = [one(place) for place in range(2)]
    first, second = (json.loads(process.communicate(timeout=90)[0]) for process in crew)

    assert (first["first"], second["first"]) == (True, False)
    assert (first["part"], second["part"]) == ([7], [5, 6])
    assert first["sum"] == second["sum"] == [3.0, 1.0]
    assert first["gradients"] == second["gradients"] == [[2.0, 1.0], [3.0, 4.0], None, None]
    assert (first["rounds"], second["rounds"]) == (["a", "b", "c"], ["d", "idle", "idle"])
    assert first["requests"] == second["requests"] == [False, True, False]
    assert first["stopped"] == second["stopped"] == ["a", "b", "paused"]
    assert first["verdict"] == 65


def test_two_processes_learn_what_one_learns(job: MakeJob, calm: Workshop) -> None:
    alone = job(processes_per_node=1)
    alone.run()

    ours, theirs = numbers(calm), numbers(alone)
    assert len(ours.train) == STEPS
    assert ours.train == pytest.approx(theirs.train, abs=1e-5)
    assert ours.validation == pytest.approx(theirs.validation, abs=1e-5)
    steps = [key for key in calm.reported_keys() if key.startswith("metrics/")]
    assert steps == [f"metrics/step/{step}" for step in range(1, STEPS + 1)]


def test_a_killed_process_takes_no_work_with_it(job: MakeJob, calm: Workshop) -> None:
    one = job()
    process = at_step(one, 3)
    members.of(process.pid)[1].kill()
    process.join(timeout=120)

    assert process.exitcode == 0, one.log_path.read_text()[-4000:]
    assert "attempt/1/restart/1" in one.reported_keys()
    assert digest(one.result) == digest(calm.result)


def test_sigterm_saves_and_the_next_attempt_goes_on(job: MakeJob, calm: Workshop) -> None:
    one = job(checkpointing={"every_steps": 1000, "keep_best": False})
    process = at_step(one, 2)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=60)

    assert process.exitcode == ExitCode.RESUME_ME, one.log_path.read_text()[-4000:]
    (saved,) = [int(path.name) for path in (one.store_folder / JOB / "checkpoints").iterdir()]
    assert 2 <= saved < STEPS

    one.recipe = {**RECIPE, "processes_per_node": 2}
    assert digest(one.run(attempt=2)) == digest(calm.result)


def test_no_process_outlives_its_launcher(job: MakeJob) -> None:
    one = job()
    process = at_step(one, 1)
    crew = members.of(process.pid)
    process.kill()

    assert len(crew) == 2
    eventually(lambda: not any(member.is_running() for member in crew.values()), 30, "both to be gone")


def test_bad_data_ends_all_with_the_code_for_it(job: MakeJob) -> None:
    one = job(optimisation={**OPTIMISATION, "max_row_tokens": 16})

    one.run(expect=ExitCode.DATA_BAD)

    assert json.loads((one.store_folder / JOB / "failure.json").read_text())["reason"] == "ROW_TOO_LONG"
    assert one.log_path.read_text().count("over") <= 4, "nobody began again"


@pytest.fixture
def machines(job: MakeJob) -> Machines:
    """A job whose two processes are on two machines, as far as they can tell."""
    one = job(processes_per_node=1, nodes=2)
    together = {"FEINSCHLIFF_TRAINER_RENDEZVOUS": f"localhost:{free_port()}"}

    def machine(index: int) -> ForkServerProcess:
        own = {"FEINSCHLIFF_HOME": str(one.folder / f"home-{index}"), "JOB_COMPLETION_INDEX": str(index)}
        return one.start(failpoints="step.after=delay:0.3", environment={**together, **own})

    both = [machine(index) for index in range(2)]
    return one, both


def ends(both: Sequence[ForkServerProcess]) -> list[int | None]:
    for each in both:
        each.join(timeout=150)
    return [each.exitcode for each in both]


def test_a_process_killed_on_one_machine_begins_again_with_those_of_the_other(
    machines: Machines, calm: Workshop
) -> None:
    one, both = machines
    eventually(lambda: "metrics/step/3" in one.reported_keys(), 120, "the step")
    (victim,) = members.of(both[1].pid).values()
    victim.kill()

    assert ends(both) == [0, 0], one.log_path.read_text()[-4000:]
    assert any("/restart/" in key for key in one.reported_keys())
    assert digest(one.result) == digest(calm.result)


def test_a_machine_that_is_asked_to_go_takes_the_other_along(machines: Machines) -> None:
    one, both = machines
    eventually(lambda: "metrics/step/1" in one.reported_keys(), 120, "the step")
    both[1].terminate()

    assert ends(both) == [ExitCode.RESUME_ME] * 2, one.log_path.read_text()[-4000:]
    assert list((one.store_folder / JOB / "checkpoints").iterdir())


def test_cut_weights_learn_what_whole_ones_learn_and_go_on_from_a_checkpoint(job: MakeJob, tmp_path: Path) -> None:
    alone, one = job(processes_per_node=1, **FULL), job(sharing="sharded", **FULL)
    alone.run()
    process = at_step(one, 3)
    members.of(process.pid)[1].kill()
    process.join(timeout=150)

    assert process.exitcode == 0, one.log_path.read_text()[-4000:]
    assert numbers(one).train == pytest.approx(numbers(alone).train, abs=1e-5)
    assert numbers(one).validation == pytest.approx(numbers(alone).validation, abs=1e-5)
    ours, theirs = (weights(each, tmp_path / name) for each, name in ((one, "ours"), (alone, "theirs")))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def weights(one: Workshop, folder: Path) -> dict[str, torch.Tensor]:
    fetch(one.store, f"{JOB}/result", folder)
    return load_file(folder / "model.safetensors")
