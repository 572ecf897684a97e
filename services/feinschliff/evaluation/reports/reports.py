"""Reports of runs: what is stored, gathered and rendered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from feinschliff.evaluation.evaluations import Evaluations, Listing
from feinschliff.evaluation.reports import rendering
from feinschliff.evaluation.reports.rendering import Report
from feinschliff.evaluation.resources import OVERALL, RUN, OutputItem
from feinschliff.evaluation.runs.comparisons import Comparisons, RunComparison
from feinschliff.evaluation.runs.runs import Runs
from feinschliff.evaluation.statistics.intervals import CONFIDENCE, SEED
from feinschliff.graders.spec import refused
from feinschliff.kit import names
from feinschliff.kit.errors import Refusal

RUNS_MAX = 16
ITEMS_AT_ONCE = 200


class Form(Enum):
    """How a report is written; the value is its media type."""

    MARKDOWN = "text/markdown"
    HTML = "text/html"
    CSV = "text/csv"


class Rendered(NamedTuple):
    text: str
    media_type: str


class Reports:
    """Blocking; call it through `offload`."""

    def __init__(self, evaluations: Evaluations, runs: Runs, comparisons: Comparisons) -> None:
        self._evaluations = evaluations
        self._runs = runs
        self._comparisons = comparisons

    def render(self, wanted: Sequence[str], form: Form) -> Rendered:
        """Renders runs of one eval; the first is the baseline of comparisons.

        Raises:
            Invalid: REPORT_RUNS_INVALID where they are none, too many, named twice or of several evals.
            NotFound: RUN_NOT_FOUND.
        """
        _check(wanted)
        if form is Form.CSV:
            items = (item for run in wanted for item in self._items(run))
            return Rendered(rendering.csv_of(items), form.value)
        views = [self._runs.get(run) for run in wanted]
        compared = [(run, *self._compared(wanted[0], run)) for run in wanted[1:]]
        report = Report(self._evaluations.get(views[0].run.eval), views, compared)
        render = rendering.html if form is Form.HTML else rendering.markdown
        return Rendered(render(report), form.value)

    def _compared(self, baseline: str, candidate: str) -> tuple[RunComparison | None, str]:
        """The comparison, or why there is none."""
        try:
            return self._comparisons.compare(baseline, candidate, OVERALL, CONFIDENCE, SEED), ""
        except Refusal as refusal:
            return None, refusal.message

    def _items(self, run: str) -> Iterator[OutputItem]:
        token = ""
        while True:
            items, token, _ = self._runs.list_items(Listing(run, ITEMS_AT_ONCE, token, "", ""))
            yield from items
            if not token:
                return


def _check(wanted: Sequence[str]) -> None:
    evals = {names.parse(RUN, run, field=f"runs[{k}]")["eval"] for k, run in enumerate(wanted)}
    if not 1 <= len(wanted) <= RUNS_MAX or len(set(wanted)) < len(wanted) or len(evals) > 1:
        message = f"A report shows 1 to {RUNS_MAX} runs of one eval, each once; these are {len(wanted)}."
        raise refused("REPORT_RUNS_INVALID", "runs", message, runs=len(wanted))
