"""Random moments: kill -9 at a failpoint or SIGTERM at any time, several times a job; the end is that of a calm run.

`FEINSCHLIFF_CHAOS_SEED` repeats a run, `FEINSCHLIFF_CHAOS_MOMENTS` sets how many jobs are disturbed.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from feinschliff.formats.report import ExitCode
from tests.support.trainer import Workshop, rows

SEED = int(os.environ.get("FEINSCHLIFF_CHAOS_SEED", time.time_ns() % 2**31))
MOMENTS = int(os.environ.get("FEINSCHLIFF_CHAOS_MOMENTS", "50"))
ATTEMPTS_MAX = 12
STEPS = 15
PLACES = {
    "checkpoint.before_write": 9,
    "checkpoint.before_commit": 9,
    "checkpoint.after_commit": 9,
    "step.after": STEPS,
    "report.before_send": 4,
    "report.after_send": 4,
    "result.before_commit": 1,
    "result.after_commit": 1,
}

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def job(folder: Path, base: Path) -> Workshop:
    one = Workshop(folder, base, train=rows(18), validation=rows(4, first=50))
    one.recipe = {
        "optimisation": {"epochs": 3, "batch_size": 4, "learning_rate": 5e-3},
        "adaptation": {"kind": "lora", "dropout": 0.1},
        "checkpointing": {"every_steps": 2},
        "validation": {"every_steps": 3},
    }
    return one


@pytest.fixture(scope="module")
def calm(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    manifest = job(tmp_path_factory.mktemp("calm") / "job", tiny_model).run()
    assert manifest is not None
    return manifest.digest


def faults(dice: random.Random) -> Iterator[str | float]:
    """One to three faults: a failpoint to be killed at, or seconds after which SIGTERM comes."""
    for _ in range(dice.randrange(1, 4)):
        if dice.random() < 0.3:
            yield dice.uniform(0.05, 1.5)
        else:
            place = dice.choice(sorted(PLACES))
            yield f"{place}=kill@{dice.randrange(1, PLACES[place] + 1)}"


def disturb(one: Workshop, fault: str | float, attempt: int) -> int:
    """Run an attempt into its fault; its exit code."""
    process = one.start(failpoints=fault if isinstance(fault, str) else "", attempt=attempt)
    if isinstance(fault, float):
        process.join(timeout=fault)
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=90)
    assert process.exitcode is not None, "the trainer hangs"
    return process.exitcode


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_disturbed_job_ends_as_a_calm_one(moment: int, calm: str, tiny_model: Path, tmp_path: Path) -> None:
    print(f"FEINSCHLIFF_CHAOS_SEED={SEED} moment {moment}")
    one, dice = job(tmp_path / "job", tiny_model), random.Random(f"{SEED}/{moment}")

    attempt = 0
    for attempt, fault in enumerate(faults(dice), start=1):
        code = disturb(one, fault, attempt)
        # A SIGTERM that arrives before Python has set up its handlers ends the process like any other.
        assert code in (ExitCode.DONE, ExitCode.RESUME_ME, -signal.SIGKILL, -signal.SIGTERM), one.log_path.read_text()
    manifest = one.run(attempt=attempt + 1)

    assert manifest is not None
    assert manifest.digest == calm
    keys = one.reported_keys()
    assert [key for key in keys if key.startswith("metrics/")] == [f"metrics/step/{k}" for k in range(1, STEPS + 1)]
    assert keys.count(f"checkpoint/{STEPS}") == 1
