"""Two runs of one eval, compared row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feinschliff.evaluation import checks, item_store, row_store
from feinschliff.evaluation.drafts import COMPLETIONS_MAX
from feinschliff.evaluation.evaluations import Evaluations
from feinschliff.evaluation.life import State
from feinschliff.evaluation.resources import Eval, Run
from feinschliff.evaluation.results import OVERALL, compare_lines
from feinschliff.evaluation.runs import Runs
from feinschliff.evaluation.statistics import Comparison
from feinschliff.graders.grade import Item
from feinschliff.graders.grader import parse_all
from feinschliff.graders.spec import refused
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Invalid, WrongState

_SHARED = ("prompt", "sampling", "split", "limit", "tools", "examples")


class RunComparison(NamedTuple):
    """Two runs by one grader, and what weakens the comparison.

    `lines_left_out` were not graded in both, `changed` are runs whose model changed on the way, `differing` is what
    else the runs do not share.
    """

    baseline: str
    candidate: str
    grader: str
    level: float
    numbers: Comparison
    lines_left_out: Sequence[int]
    changed: Sequence[str]
    differing: Sequence[str]


class Comparisons:
    """Blocking; call it through `offload`."""

    def __init__(self, database: Database, evaluations: Evaluations, runs: Runs) -> None:
        self._database = database
        self._evaluations = evaluations
        self._runs = runs

    def compare(self, baseline: str, candidate: str, grader: str, level: float, seed: int) -> RunComparison:
        """Compares two completed runs of one eval, row by row.

        Args:
            grader: name of the grader; empty is `overall`.
            level: confidence, 0.5 to 0.999.
            seed: of the resampling, 0 and up.

        Raises:
            NotFound: RUN_NOT_FOUND.
            WrongState: RUN_NOT_COMPLETED.
            Invalid: COMPARISON_DATASETS_DIFFER, COMPARISON_EVALS_DIFFER, GRADER_UNKNOWN, LEVEL_INVALID, SEED_INVALID.
        """
        checks.check_level(level, seed)
        first, second = self._runs.get(baseline), self._runs.get(candidate)
        eval_ = self._common_eval(first.run, second.run)
        name = grader or OVERALL
        with self._database.reading() as session:
            left = item_store.graded_lines(session, baseline)
            right = item_store.graded_lines(session, candidate)
        numbers, left_out = compare_lines(name, _is_binary(eval_, name), left, right, level, seed)
        changed = [view.run.name for view in (first, second) if len(view.identities) > 1]
        differing = [what for what in _SHARED if _differ(first.run, second.run, what)]
        return RunComparison(baseline, candidate, name, level, numbers, left_out, changed, differing)

    def _common_eval(self, first: Run, second: Run) -> Eval:
        for run in (first, second):
            if run.state is not State.COMPLETED:
                message = f"{run.name} is {run.state.value}; only completed runs are compared."
                raise WrongState("RUN_NOT_COMPLETED", message, run=run.name, state=run.state.value)
        if first.dataset_version != second.dataset_version:
            message = f"The runs read different rows: {first.dataset_version} and {second.dataset_version}."
            raise Invalid(
                "COMPARISON_DATASETS_DIFFER", message, first=first.dataset_version, second=second.dataset_version
            )
        if first.has_own_rows and self._own_rows(first) != self._own_rows(second):
            message = f"The runs brought different rows: {first.name} and {second.name}."
            raise Invalid("COMPARISON_DATASETS_DIFFER", message, first=first.name, second=second.name)
        if first.eval != second.eval:
            message = f"The runs belong to different evals: {first.eval} and {second.eval}."
            raise Invalid("COMPARISON_EVALS_DIFFER", message, first=first.eval, second=second.eval)
        return self._evaluations.get(first.eval)

    def _own_rows(self, run: Run) -> list[tuple[int, Item]]:
        with self._database.reading() as session:
            return row_store.read_rows(session, run.name, after=0, limit=COMPLETIONS_MAX)


def _is_binary(eval_: Eval, name: str) -> bool:
    if name == OVERALL:
        return True
    graders = {grader.name: grader for grader in parse_all(eval_.graders, path="graders")}
    if name not in graders:
        message = f"{eval_.name} has no grader {name!r}; it has {', '.join(graders)} and {OVERALL}."
        raise refused("GRADER_UNKNOWN", "grader", message, grader=name)
    return graders[name].is_binary


def _differ(first: Run, second: Run, what: str) -> bool:
    return bool(getattr(first, what) != getattr(second, what))
