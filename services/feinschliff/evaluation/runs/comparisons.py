"""Two runs of one eval, compared row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feinschliff.evaluation import checks
from feinschliff.evaluation.drafts import COMPLETIONS_MAX
from feinschliff.evaluation.evaluations import Evaluations
from feinschliff.evaluation.life import State
from feinschliff.evaluation.resources import OVERALL, Eval, GradedLine, Run
from feinschliff.evaluation.runs import item_store, row_store
from feinschliff.evaluation.runs.results import compare_lines
from feinschliff.evaluation.runs.runs import Runs
from feinschliff.evaluation.statistics.effects import holm, judged, power, rows_needed
from feinschliff.evaluation.statistics.paired import Comparison, Verdict
from feinschliff.graders.grade import Item
from feinschliff.graders.grader import parse_all
from feinschliff.graders.spec import refused
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Invalid, WrongState

_SHARED = ("prompt", "sampling", "split", "limit", "tools", "examples")
OTHERS_MAX = 32


class Both(NamedTuple):
    """Two runs of one eval on the same rows."""

    eval: Eval
    baseline: Sequence[GradedLine]
    candidate: Sequence[GradedLine]


class Family(NamedTuple):
    """What else is compared at the same time, and the smallest difference that matters."""

    other_candidates: Sequence[str] = ()
    across_graders: bool = False
    difference_min: float = 0.0


ALONE = Family()


class RunComparison(NamedTuple):
    """Two runs by one grader, and what weakens the comparison.

    `lines_left_out` were not graded in both, `changed` are runs whose model changed on the way, `differing` is what
    else the runs do not share. `p_adjusted` is corrected for all `comparisons`, and `verdict` follows it.
    """

    baseline: str
    candidate: str
    grader: str
    level: float
    numbers: Comparison
    lines_left_out: Sequence[int]
    changed: Sequence[str]
    differing: Sequence[str]
    comparisons: int
    p_adjusted: float | None
    verdict: Verdict
    power: float | None
    rows_needed: int | None


class Comparisons:
    """Blocking; call it through `offload`."""

    def __init__(self, database: Database, evaluations: Evaluations, runs: Runs) -> None:
        self._database = database
        self._evaluations = evaluations
        self._runs = runs

    def compare(
        self, baseline: str, candidate: str, grader: str, level: float, seed: int, family: Family = ALONE
    ) -> RunComparison:
        """Compares two completed runs of one eval, row by row.

        Args:
            grader: name of the grader; empty is `overall`.
            level: confidence, 0.5 to 0.999.
            seed: of the resampling, 0 and up.
            family: what is compared with it; the p-value is corrected for all of it.

        Raises:
            NotFound: RUN_NOT_FOUND.
            WrongState: RUN_NOT_COMPLETED.
            Invalid: COMPARISON_DATASETS_DIFFER, COMPARISON_EVALS_DIFFER, COMPARISON_FAMILY, GRADER_UNKNOWN,
                LEVEL_INVALID, SEED_INVALID.
        """
        checks.check_level(level, seed)
        _check_family(family)
        first, second = self._runs.get(baseline), self._runs.get(candidate)
        eval_ = self._common_eval(first.run, second.run)
        name = grader or OVERALL
        numbers, left_out = self._numbers(eval_, name, baseline, candidate, level, seed)
        alpha = 1 - level
        ps = [numbers.p, *self._other_ps(eval_, name, first.run, candidate, level, seed, family)]
        known = [p for p in ps if p is not None]
        adjusted = holm(known)[0] if numbers.p is not None else None
        wanted = family.difference_min or numbers.difference or 0.0
        changed = [view.run.name for view in (first, second) if len(view.identities) > 1]
        differing = [what for what in _SHARED if _differ(first.run, second.run, what)]
        return RunComparison(
            baseline=baseline,
            candidate=candidate,
            grader=name,
            level=level,
            numbers=numbers,
            lines_left_out=left_out,
            changed=changed,
            differing=differing,
            comparisons=len(ps),
            p_adjusted=adjusted,
            verdict=judged(numbers, adjusted, alpha=alpha, difference_min=family.difference_min),
            power=power(numbers.spread, wanted, numbers.n, alpha=alpha),
            rows_needed=rows_needed(numbers.spread, wanted, alpha=alpha),
        )

    def both(self, baseline: str, candidate: str) -> Both:
        """The graded lines of two runs that can be compared. Raises as `compare`."""
        eval_ = self._common_eval(self._runs.get(baseline).run, self._runs.get(candidate).run)
        with self._database.reading() as session:
            left, right = item_store.graded_lines(session, baseline), item_store.graded_lines(session, candidate)
        return Both(eval_, left, right)

    def _numbers(
        self, eval_: Eval, grader: str, baseline: str, candidate: str, level: float, seed: int
    ) -> tuple[Comparison, list[int]]:
        is_binary = grader_named(eval_, grader)
        with self._database.reading() as session:
            left = item_store.graded_lines(session, baseline)
            right = item_store.graded_lines(session, candidate)
        return compare_lines(grader, is_binary, left, right, level, seed)

    def _other_ps(
        self, eval_: Eval, grader: str, baseline: Run, candidate: str, level: float, seed: int, family: Family
    ) -> list[float | None]:
        """The p-values of all comparisons of the family but the one asked for."""
        graders = [grader]
        if family.across_graders:
            graders = [OVERALL, *(one.name for one in parse_all(eval_.graders, path="graders", is_stored=True))]
        candidates = dict.fromkeys([candidate, *family.other_candidates])
        for name in list(candidates)[1:]:
            self._common_eval(baseline, self._runs.get(name).run)
        pairs = [(other, one) for other in candidates for one in graders if (other, one) != (candidate, grader)]
        return [self._numbers(eval_, one, baseline.name, other, level, seed)[0].p for other, one in pairs]

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


def _check_family(family: Family) -> None:
    if len(family.other_candidates) > OTHERS_MAX:
        count = len(family.other_candidates)
        message = f"At most {OTHERS_MAX} other candidates are compared at once; these are {count}."
        raise refused("COMPARISON_FAMILY", "other_candidates", message, count=count)
    if not 0 <= family.difference_min <= 1:
        message = f"difference_min is {family.difference_min}; it is 0 to 1."
        raise refused("COMPARISON_FAMILY", "difference_min", message, difference_min=family.difference_min)


def grader_named(eval_: Eval, name: str) -> bool:
    """Whether the grader gives 0 or 1 only; raises Invalid GRADER_UNKNOWN."""
    if name == OVERALL:
        return True
    graders = {grader.name: grader for grader in parse_all(eval_.graders, path="graders", is_stored=True)}
    if name not in graders:
        message = f"{eval_.name} has no grader {name!r}; it has {', '.join(graders)} and {OVERALL}."
        raise refused("GRADER_UNKNOWN", "grader", message, grader=name)
    return graders[name].is_binary


def _differ(first: Run, second: Run, what: str) -> bool:
    return bool(getattr(first, what) != getattr(second, what))
