"""How fast earlier jobs of this installation were, and what that says of the next one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from feinschliff.formats.recipe import Recipe
from feinschliff.kit.db import Database
from feinschliff.training.architecture import Architecture, layers_differentiated, trained_parameters
from feinschliff.training.life import State
from feinschliff.training.store import JOBS

JOBS_MAX = 100
SAMPLES_MAX = 9
SAMPLES_TRUSTED = 3
OVERHEAD_SECONDS = 30.0
"""From the start of an attempt to its first step and from its last step to its end, where no job has shown it."""


@dataclass(frozen=True)
class Ran:
    """What a job that is over has shown.

    Args:
        overhead_seconds: between start and end, less what its tokens took; absent where it was interrupted.
    """

    recipe: Recipe
    base_model: str
    tokens_per_second: float
    overhead_seconds: float | None = None


class Speed(NamedTuple):
    """Tokens a second that are to be expected, from so many jobs; `kind` says how like they were."""

    expected: float
    low: float
    high: float
    samples: int
    kind: str


class Speeds:
    """Reads the jobs that succeeded, the newest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ran(self, profile: str) -> list[Ran]:
        columns = (JOBS.c.recipe, JOBS.c.inputs, JOBS.c.metrics, JOBS.c.started, JOBS.c.finished, JOBS.c.attempt)
        query = (
            JOBS.select()
            .with_only_columns(*columns)
            .where(JOBS.c.profile == profile, JOBS.c.state == State.SUCCEEDED.value)
            .order_by(JOBS.c.finished.desc())
            .limit(JOBS_MAX)
        )
        with self._database.reading() as session:
            rows = session.execute(query).mappings().all()
        return [ran for row in rows if (ran := _ran(row)) is not None]


def _ran(row: Mapping[Any, Any]) -> Ran | None:
    metrics: Mapping[str, float] = row["metrics"]
    speed = float(metrics.get("tokens_per_second", 0.0))
    if speed <= 0:
        return None
    started, finished = row["started"], row["finished"]
    overhead = None
    if row["attempt"] == 1 and started is not None and finished is not None:
        whole = (finished - started).total_seconds()
        overhead = max(0.0, whole - float(metrics.get("trained_tokens", 0)) / speed)
    return Ran(Recipe.model_validate(row["recipe"]), str(row["inputs"].get("base_model", "")), speed, overhead)


def speed_of(recipe: Recipe, base_model: str, architecture: Architecture, earlier: Sequence[Ran]) -> Speed | None:
    """From the jobs most like this one; None where no job on this base was measured yet.

    What differs is reckoned by the products per token (`work_per_token`); the less alike, the wider the range.
    """
    same_base = [one for one in earlier if one.base_model == base_model]
    for kind, is_like, spread in _LIKENESS:
        alike = [one for one in same_base if is_like(one.recipe, recipe)][:SAMPLES_MAX]
        if not alike:
            continue
        wanted = work_per_token(architecture, recipe)
        speeds = [one.tokens_per_second * work_per_token(architecture, one.recipe) / wanted for one in alike]
        middle = statistics.median(speeds)
        if kind == "same" and len(speeds) >= SAMPLES_TRUSTED:
            return Speed(middle, min(*speeds, middle / 1.1), max(*speeds, middle * 1.1), len(speeds), kind)
        return Speed(middle, min(*speeds, middle / spread), max(*speeds, middle * spread), len(speeds), kind)
    return None


def overhead_of(earlier: Sequence[Ran]) -> float:
    """Seconds of a job beside its steps: start, validation, checkpoints, the result."""
    shown = [one.overhead_seconds for one in earlier if one.overhead_seconds is not None][:SAMPLES_MAX]
    return statistics.median(shown) if shown else OVERHEAD_SECONDS


def work_per_token(architecture: Architecture, recipe: Recipe) -> float:
    """Multiplications and additions of one token, relative to others of the same base.

    Two a weight forwards; two a weight backwards through every differentiated layer; two a weight that learns; the
    forward pass once more where activations are not kept (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
    """
    inner = architecture.total_parameters - architecture.embedding_parameters
    share = layers_differentiated(architecture, recipe) / max(1, architecture.layers)
    again = share if recipe.optimisation.gradient_checkpointing else 0.0
    return inner * (2.0 + 2.0 * share + 2.0 * again) + 2.0 * min(inner, trained_parameters(architecture, recipe))


def _same(one: Recipe, other: Recipe) -> bool:
    return _similar(one, other) and (one.precision, one.optimisation.gradient_checkpointing) == (
        other.precision,
        other.optimisation.gradient_checkpointing,
    )


def _similar(one: Recipe, other: Recipe) -> bool:
    return (one.adaptation.kind, one.objective.kind, one.nodes, one.processes_per_node, one.sharing) == (
        other.adaptation.kind,
        other.objective.kind,
        other.nodes,
        other.processes_per_node,
        other.sharing,
    )


_LIKENESS: tuple[tuple[str, Callable[[Recipe, Recipe], bool], float], ...] = (
    ("same", _same, 1.3),
    ("similar", _similar, 2.0),
    ("base", lambda one, other: True, 3.0),
)
