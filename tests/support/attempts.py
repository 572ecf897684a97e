"""One attempt of a job in the test's own process, stopped after a step where a test wants that."""

from __future__ import annotations

from datetime import datetime

from feinschliff.formats.report import Metrics, Report
from feinschliff.trainer.attempt import run
from feinschliff.trainer.preparation import Attempt
from feinschliff.trainer.progress import Outbox
from feinschliff.trainer.scratch import Scratch
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.trainer.stop import Stop, Stopped, Why
from tests.support.trainer import JOB, Workshop


class LateStop(Stop):
    """Asks to stop a while after it was told to: at a later look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks
        self._told: Why | None = None

    def ask(self, why: Why) -> None:
        self._told = why

    def check(self) -> None:
        if self._told is not None:
            self._looks -= 1
            if self._looks < 0:
                super().ask(self._told)
        super().check()


class StoppingAt(Outbox):
    """Keeps what is reported, and asks to stop as soon as a step is."""

    def __init__(self, step: int, stop: Stop) -> None:
        super().__init__()
        self.told: list[Report] = []
        self._step = step
        self._stop = stop

    def post(self, report: Report, *, time: datetime | None = None) -> None:
        super().post(report, time=time)
        self.told.append(report)
        if isinstance(report, Metrics) and report.step == self._step:
            self._stop.ask(Why.SIGNAL)


def work(one: Workshop, *, attempt: int = 1, until_step: int = -1, looks: int = 0, **settings: object) -> list[Report]:
    """One attempt in this process; what it told.

    Args:
        looks: how many micro-batches it still works on after `until_step`.
        settings: of the trainer.
    """
    stop = LateStop(looks)
    given = TrainerSettings.model_validate({"home": one.folder / "home", "trainer_threads": 1, **settings})
    scratch = Scratch(JOB, given.scratch_folder)
    outbox = StoppingAt(until_step, stop)
    try:
        run(Attempt(one.runfile(attempt), one.store, given, outbox, stop, scratch))
    except Stopped:
        assert until_step >= 0
    finally:
        scratch.close()
    return outbox.told
