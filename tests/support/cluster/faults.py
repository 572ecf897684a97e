"""Answers that go wrong on a schedule."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from enum import StrEnum, auto


class Kind(StrEnum):
    """How a call goes wrong."""

    STATUS = auto()  # refused with a status
    CUT = auto()  # the line is cut before anything happens
    LOST = auto()  # it happens, and the answer is lost


@dataclass
class Fault:
    """The next `times` calls with this method and these words in their path go wrong; `chance` of each of them."""

    kind: Kind
    method: str = ""
    path: str = ""
    status: int = 500
    retry_after: int | None = None
    times: int = 1
    chance: float = 1.0

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("", method) and self.path in path


class Faults:
    """The schedule; its random part follows from a seed."""

    def __init__(self, seed: int = 1) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._planned: list[Fault] = []
        self.happened: list[Fault] = []

    def plan(self, fault: Fault) -> None:
        with self._lock:
            self._planned.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._planned.clear()

    def take(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self._planned:
                if fault.fits(method, path) and self._random.random() < fault.chance:
                    fault.times -= 1
                    self.happened.append(fault)
                    return fault
        return None
