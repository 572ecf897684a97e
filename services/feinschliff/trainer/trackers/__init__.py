"""The trackers of one attempt: made from its recipe, fed with its numbers, ended with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from feinschliff.artifacts.commit import key_of
from feinschliff.artifacts.store import Store
from feinschliff.formats.recipe import Tracker as Settings
from feinschliff.formats.report import Metrics, Notice
from feinschliff.formats.runfile import Runfile
from feinschliff.trainer.peers import is_loss_of_a_peer
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.trainer.stop import Stopped, Why
from feinschliff.trainer.trackers.feed import Feed
from feinschliff.trainer.trackers.mlflow import Mlflow
from feinschliff.trainer.trackers.tracker import NAME_CHARS_MAX, Ending, Run, Tracker, point_of
from feinschliff.trainer.trackers.wandb import Wandb

HURRY_SECONDS = 3.0  # of an attempt that is stopped: its machine is wanted


class Trackers:
    """All trackers of an attempt; leaving the block ends them and says how the attempt ended.

    Args:
        post: takes the one warning about each that does not work.
        folder: makes an empty folder of the attempt's own.
    """

    def __init__(
        self,
        runfile: Runfile,
        settings: TrainerSettings,
        store: Store,
        post: Callable[[Notice], None],
        folder: Callable[[], Path],
    ) -> None:
        self._settings = settings
        self._feeds = [
            Feed(kind_of(wanted), tracker_of(wanted, runfile, settings, store, folder), warning(place, wanted, post))
            for place, wanted in enumerate(runfile.recipe.trackers)
        ]

    def add(self, metrics: Metrics) -> None:
        if self._feeds:
            point = point_of(metrics, time.time())
            for feed in self._feeds:
                feed.add(point)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ending = ending_of(error)
        hurries = ending in (Ending.CANCELLED, Ending.INTERRUPTED)
        allowed = min(HURRY_SECONDS, self._settings.trainer_tracker_seconds)
        seconds = allowed if hurries else self._settings.trainer_tracker_seconds
        until = time.monotonic() + seconds
        for feed in self._feeds:
            feed.end(ending)
        for feed in self._feeds:
            feed.wait(until - time.monotonic())


def ending_of(error: BaseException | None) -> Ending:
    if error is None:
        return Ending.FINISHED
    if isinstance(error, Exception) and is_loss_of_a_peer(error):
        return Ending.INTERRUPTED
    if isinstance(error, Stopped):
        return Ending.CANCELLED if error.why is Why.CANCELLED else Ending.INTERRUPTED
    return Ending.FAILED


def tracker_of(
    wanted: Settings, runfile: Runfile, settings: TrainerSettings, store: Store, folder: Callable[[], Path]
) -> Tracker:
    run = Run(
        id=(runfile.job_uid or runfile.job.rsplit("/", 1)[1])[:NAME_CHARS_MAX],
        job=runfile.job,
        name=runfile.job.rsplit("/", 1)[1],
        base_model=runfile.base_model,
        parameters=runfile.recipe.model_dump(mode="json", exclude={"trackers"}),
    )
    if wanted.mlflow is not None:
        return Mlflow(wanted.mlflow, run, secrets=settings.secrets_folder, offline=settings.offline)
    assert wanted.wandb is not None

    def keep(path: Path) -> None:
        store.upload(path, key_of(f"{runfile.prefix}/wandb/attempt-{runfile.attempt}", path.name))

    return Wandb(
        wanted.wandb,
        run,
        secrets=settings.secrets_folder,
        folder=folder(),
        offline=settings.offline,
        keep=keep,
    )


def kind_of(wanted: Settings) -> str:
    return "mlflow" if wanted.mlflow is not None else "wandb"


def warning(place: int, wanted: Settings, post: Callable[[Notice], None]) -> Callable[[str], None]:
    """Tells the job's owner, once for each tracker over all attempts, for the key is the same."""
    kind = kind_of(wanted)

    def warn(why: str) -> None:
        message = f"The tracker {kind} does not take the numbers of this job: {why[:500]}. The job goes on without it."
        post(Notice(key=f"tracker/{place}/{kind}", level="warning", message=message))

    return warn
