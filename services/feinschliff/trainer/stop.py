"""The wish to stop, from a signal, the service, or a lost claim to the job; looked at between micro-batches."""

from __future__ import annotations

import signal
import threading
from enum import StrEnum, auto
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Why(StrEnum):
    SIGNAL = auto()
    CANCELLED = auto()
    PAUSED = auto()
    SUPERSEDED = auto()


class Stopped(Exception):
    """Work ends here, in a state that can be resumed."""

    def __init__(self, why: Why) -> None:
        super().__init__(f"stopped: {why}")
        self.why = why


class Stop:
    """Set once, from any thread or a signal handler; the first reason stays."""

    def __init__(self) -> None:
        self._why: Why | None = None
        self._save_now = threading.Event()

    @property
    def wish(self) -> Why | None:
        """Why this process is to stop, where someone asked for it."""
        return self._why

    def ask(self, why: Why) -> None:
        if self._why is None:
            self._why = why

    def ask_to_save(self) -> None:
        """Write a checkpoint at the next chance and go on."""
        self._save_now.set()

    def check(self) -> None:
        """Raises Stopped where someone asked for it."""
        if self._why is not None:
            raise Stopped(self._why)

    def take_save_request(self) -> bool:
        wanted = self._save_now.is_set()
        self._save_now.clear()
        return wanted

    def on_signals(self) -> None:
        """SIGTERM and SIGINT ask to stop, also those that came before this process could hear them.

        Call from the main thread.
        """
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    @staticmethod
    def be_deaf() -> None:
        """From now on signals change nothing: it is decided how this process ends, and it has only to do so."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.ask(Why.SIGNAL)
