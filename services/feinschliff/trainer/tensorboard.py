"""TensorBoard event files, written locally and brought to the store with every checkpoint."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from feinschliff.artifacts.commit import key_of
from feinschliff.artifacts.store import Store
from feinschliff.formats.report import Metrics
from feinschliff.kit.errors import Refusal

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

logger = logging.getLogger(__name__)


class Board:
    """The event file of one attempt, at `{job}/tensorboard/attempt-{n}/` in the store.

    It is for looking at only: a store that does not take it is logged and never stops the work.
    """

    def __init__(self, store: Store, job_prefix: str, attempt: int, folder: Path) -> None:
        self._store = store
        self._prefix = f"{job_prefix}/tensorboard/attempt-{attempt}"
        self._folder = folder
        self._writer: EventFileWriter | None = None

    def add(self, metrics: Metrics) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=f"{metrics.phase}/{name}", simple_value=value)
            for name, value in sorted(metrics.values.items())
        ]
        event = Event(step=metrics.step, wall_time=time.time(), summary=Summary(value=values))
        self._open().add_event(event)

    def upload(self) -> None:
        if self._writer is None:
            return
        self._writer.flush()
        for path in sorted(self._folder.iterdir()):
            try:
                self._store.upload(path, key_of(self._prefix, path.name))
            except Refusal as refusal:
                logger.warning("the TensorBoard file stays behind", extra={"reason": refusal.reason})

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> EventFileWriter:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._writer is None:
            self._writer = EventFileWriter(str(self._folder))
        return self._writer
