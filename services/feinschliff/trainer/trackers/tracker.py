"""What every tracker does: a copy of a job's numbers in a system that people look at elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from feinschliff.formats.report import Metrics

NAME_CHARS_MAX = 63


class Ending(StrEnum):
    """How an attempt ended, as far as a tracker cares."""

    FINISHED = auto()
    FAILED = auto()
    CANCELLED = auto()
    INTERRUPTED = auto()  # to be resumed


class Point(NamedTuple):
    """Numbers of one step, named as in the TensorBoard files: `train/loss`."""

    step: int
    time: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """What the run in the tracker is called and described by; equal for all attempts of a job.

    Args:
        id: of the job, unique over all installations.
        parameters: the recipe as it was resolved.
    """

    id: str
    job: str
    name: str
    base_model: str
    parameters: Mapping[str, Any]


class TrackerRefused(Exception):
    """Sending again cannot help; the message says what can."""


class Tracker(Protocol):
    """Called from one thread alone, may take long, and raises whatever went wrong."""

    def open(self) -> None:
        """Find the job's run, or make it; called again after every failure.

        Raises:
            TrackerRefused: it will never work with these settings.
        """
        ...

    def log(self, points: Sequence[Point]) -> None: ...

    def close(self, ending: Ending) -> None: ...

    def abandon(self) -> None:
        """Leave nothing behind that runs; from any thread, while another call may hang."""
        ...


def point_of(metrics: Metrics, time: float) -> Point:
    return Point(metrics.step, time, {f"{metrics.phase}/{name}": value for name, value in metrics.values.items()})


def flat(parameters: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """`optimisation.learning_rate` and its value as text, for every leaf."""
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", str(value)


def secret(folder: Path, name: str) -> dict[str, str]:
    """A named secret of the installation: a folder with a file for each of its values, as a cluster mounts them.

    Raises:
        TrackerRefused: there is none.
    """
    place = folder / name
    try:
        return {path.name: path.read_text("utf-8").strip() for path in place.iterdir() if path.is_file()}
    except OSError as error:
        raise TrackerRefused(f"the secret {name!r} cannot be read at {place}: {error.strerror}") from None
