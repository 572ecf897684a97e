"""What is run in a sandbox, what comes back, and what every sandbox promises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

SOURCE_BYTES_MAX = 256 * 1024
TIMEOUT_SECONDS_DEFAULT = 10.0
TIMEOUT_SECONDS_MAX = 120.0
MEMORY_BYTES_MIN, MEMORY_BYTES_MAX = 128 * 1024**2, 2 * 1024**3
PRINTED_CHARACTERS_MAX = 1000
"""Of what a function printed, as the reason repeats it."""
WHY_CHARACTERS_MAX = 4096
_NUMBER_CHARACTERS_MAX = 32


class Call(NamedTuple):
    """One run of `grade(sample, item)`.

    Args:
        source: Python that defines `grade`; at most 256 KiB.
        sample: the answer, as JSON values.
        item: the row, as JSON values.
        environment: name of the installation's environment; empty: its default.
        timeout_seconds: time for all of it, from the first byte of the source to the number.
    """

    source: str
    sample: Mapping[str, object]
    item: Mapping[str, object]
    environment: str = ""
    timeout_seconds: float = TIMEOUT_SECONDS_DEFAULT


class Fault(StrEnum):
    """Why there is no number: the source's own doing, a limit that it met, or the sandbox."""

    SOURCE = "source"
    TIME = "time"
    MEMORY = "memory"
    OUTPUT = "output"
    CRASH = "crash"
    SANDBOX = "sandbox"


class Outcome(NamedTuple):
    """A finite number, or why there is none; `printed` is the end of what was printed, cut to a bound.

    `again`: the sandbox itself was out of order, and the same call may have a number later.
    """

    value: float | None
    fault: Fault | None = None
    why: str = ""
    printed: str = ""
    again: bool = False

    def reason(self) -> str:
        """For a person: the number or what went wrong, and what was printed."""
        said = f"returned {self.value!r}" if self.value is not None else self.why
        if self.printed:
            said = f"{said}\nprinted:\n{self.printed[-PRINTED_CHARACTERS_MAX:]}"
        return said[:WHY_CHARACTERS_MAX]


class Sandbox(Protocol):
    """Runs hostile source. Blocking and safe from any thread; a call ends within its time and a few seconds.

    A run sees its source, sample and item, the libraries of its environment and a clock: no file, no network, no
    environment variable, no other process, and nothing that another run left. Whatever it does, `run` returns.
    """

    def run(self, call: Call) -> Outcome: ...

    @property
    def environments(self) -> Sequence[str]:
        """Names that a call may give; the first is the default."""
        ...

    def close(self) -> None:
        """Ends what still runs; calls that wait, or come later, are told so."""
        ...


def failed(fault: Fault, why: str, printed: str = "") -> Outcome:
    return Outcome(None, fault, why, printed)


def read_answer(answer: bytes, printed: str) -> Outcome:
    """What the guest wrote as its answer: `value 0.5`, or `error` and a text. It may have written anything."""
    text = answer.decode("utf-8", "replace")
    kind, _, rest = text.partition(" ")
    if kind == "value" and len(rest) <= _NUMBER_CHARACTERS_MAX:
        try:
            value = float(rest)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return Outcome(value, None, "", printed)
    if kind == "memory":
        return failed(Fault.MEMORY, rest or "The function needed more memory than it may have.", printed)
    if kind == "error" and rest:
        return failed(Fault.SOURCE, rest[:WHY_CHARACTERS_MAX], printed)
    return failed(Fault.SOURCE, "The function ended without an answer.", printed)
