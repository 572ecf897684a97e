"""Keeps one part of the platform running: starts it, waits, starts it again after a pause that grows."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable

from feinschliff.cli.parts import Part, why
from feinschliff.cli.state import Child, ProcessRef
from feinschliff.kit.errors import Refusal
from feinschliff.kit.loops import CALM_SECONDS, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS

log = logging.getLogger(__name__)


def pause_seconds(failures_in_a_row: int) -> float:
    """How long to wait before the next start: 0.5, 1, 2 ... at most 30 s."""
    return float(min(FIRST_PAUSE_SECONDS * 2 ** min(failures_in_a_row - 1, 10), LONGEST_PAUSE_SECONDS))


class Keeper:
    """One thread per part; `changed` is told whenever the part's process or its count of restarts is another.

    `problem` says why it ended last; `is_hopeless`, that it would end the same way again.
    """

    def __init__(self, part: Part, changed: Callable[[], None]) -> None:
        self.name = part.name
        self.restarts = 0
        self.problem = ""
        self.is_hopeless = False
        self._part = part
        self._changed = changed
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name=f"keep-{part.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the part and waits until it is gone; harmless when it never ran."""
        self._stopping.set()
        with self._starting:
            process = self._process
        if process is not None:
            self._part.stop(process)
        if self._thread.ident is not None:
            self._thread.join()
        self._changed()

    def child(self) -> Child:
        process = self._process
        is_alive = process is not None and process.poll() is None
        return Child(process=ProcessRef.of(process.pid) if process and is_alive else None, restarts=self.restarts)

    def _keep(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            self.problem = self._run_once()
            if self._stopping.is_set():
                return
            failures = 1 if time.monotonic() - begun > CALM_SECONDS else failures + 1
            pause = pause_seconds(failures)
            self.restarts += 1
            log.error(
                "part ended; starting it again", extra={"part": self.name, "why": self.problem, "pause_seconds": pause}
            )
            self._changed()
            self._stopping.wait(pause)

    def _run_once(self) -> str:
        """Starts the part and waits for its end; why it ended."""
        try:
            with self._starting:
                if self._stopping.is_set():
                    return "stopped"
                self._process = process = self._part.start()
        except Refusal as refusal:
            self.is_hopeless = True
            return why(refusal)
        log.info("part started", extra={"part": self.name, "pid": process.pid})
        self._changed()
        code = process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self.is_hopeless = self._part.is_hopeless(code)
        return f"{self.name} ended with {code}: {self._part.last_words()}"
