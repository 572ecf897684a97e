"""A template that names the date gives a job's rows the same tokens on whatever day they are encoded."""

from __future__ import annotations

import shutil
from datetime import date, datetime
from pathlib import Path

import pytest

from feinschliff.formats.manifest import Manifest
from feinschliff.formats.report import Metrics, Report
from feinschliff.lm.load import load_tokenizer
from feinschliff.trainer import preparation
from feinschliff.trainer.attempt import run
from feinschliff.trainer.preparation import Attempt
from feinschliff.trainer.progress import Outbox
from feinschliff.trainer.scratch import Scratch
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.trainer.stop import Stop, Stopped, Why
from tests.support.trainer import JOB, Workshop, rows

STOPPED_AT = 2


@pytest.fixture
def dated(tmp_path: Path, tiny_model: Path) -> Path:
    """The tiny model, whose template begins with the date."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{{ strftime_now('%d.%m.%Y') }}\n" + str(tokenizer.chat_template)
    shutil.copytree(tiny_model, tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


class Halting(Outbox):
    """Asks to stop after a step."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop = stop

    def post(self, report: Report, *, time: datetime | None = None) -> None:
        super().post(report, time=time)
        if isinstance(report, Metrics) and report.step == STOPPED_AT:
            self._stop.ask(Why.SIGNAL)


def work(one: Workshop, *, attempt: int = 1, halts: bool = False) -> Manifest | None:
    stop = Stop()
    settings = TrainerSettings(home=one.folder / "home", trainer_threads=1)
    scratch = Scratch(JOB, settings.scratch_folder)
    try:
        run(Attempt(one.runfile(attempt), one.store, settings, Halting(stop) if halts else Outbox(), stop, scratch))
    except Stopped:
        assert halts
    finally:
        scratch.close()
    return one.result


def test_a_job_that_goes_on_another_day_ends_as_an_undisturbed_one(
    tmp_path: Path, dated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def workshop(name: str) -> Workshop:
        one = Workshop(tmp_path / name, dated, train=rows(8))
        one.recipe = {"optimisation": {"epochs": 1, "batch_size": 2, "learning_rate": 5e-3}}
        return one

    calm, cut, later = workshop("calm"), workshop("cut"), workshop("later")
    monkeypatch.setattr(preparation, "day_of", lambda crew: date(2024, 7, 26))
    expected = work(calm)
    work(cut, halts=True)
    monkeypatch.setattr(preparation, "day_of", lambda crew: date(2025, 1, 3))
    resumed, other = work(cut, attempt=2), work(later)

    assert expected is not None
    assert resumed is not None
    assert other is not None
    assert resumed.files == expected.files
    assert other.files != expected.files, "the date is among the tokens"
