"""What gates count: rows without a grade count against the candidate, and too few rows decide nothing."""

from __future__ import annotations

import pytest

from feinschliff.evaluation.gates.evidence import compare_strictly, counted, result_strictly
from feinschliff.evaluation.gates.fairness import PairScores, SwapGrades, group_gap, minimal_pairs, term_swaps
from feinschliff.evaluation.gates.judging import Cost, Evidence, judge
from feinschliff.evaluation.gates.rules import (
    Bound,
    Demand,
    Floor,
    Gain,
    GroupGap,
    MinimalPairs,
    NoLoss,
    Rule,
    TermSwaps,
)
from feinschliff.evaluation.resources import GradedLine, GradeGiven
from feinschliff.evaluation.runs.results import results_of


def graded(values: list[float | None], fault: str = "sample") -> list[GradedLine]:
    return [
        GradedLine(k + 1, False, [GradeGiven("choice", value, value == 1.0, "", "" if value is not None else fault)])
        for k, value in enumerate(values)
    ]


BASELINE = graded([1.0] * 300 + [0.0] * 200)
READABLE_FEW = graded([None] * 300 + [1.0] * 40 + [None] * 160)
"""A candidate that answers readably only where the baseline is wrong."""


@pytest.mark.parametrize("grader", ["choice", "overall"])
@pytest.mark.parametrize("demand", [Gain(), NoLoss()])
def test_a_candidate_that_answers_only_what_it_knows_is_no_gain(demand: Demand, grader: str) -> None:
    numbers = compare_strictly(grader, True, BASELINE, READABLE_FEW, 0.95)
    assert (numbers.n, numbers.unpaired, numbers.losses, numbers.wins) == (500, 0, 300, 40)
    outcome = judge(Rule("one", "e", grader, demand), Evidence(comparison=numbers))
    assert not outcome.holds


def test_answers_that_failed_count_against_the_candidate_and_not_for_it() -> None:
    errored = [GradedLine(line.line, True, ()) for line in BASELINE[:100]]
    numbers = compare_strictly("choice", True, BASELINE, [*errored, *BASELINE[100:]], 0.95)
    assert (numbers.losses, numbers.difference) == (100, -0.2)
    turned = compare_strictly("choice", True, [*errored, *BASELINE[100:]], BASELINE, 0.95)
    assert (turned.wins, turned.unpaired) == (0, 100)
    outcome = judge(Rule("one", "e", "choice", NoLoss(0.5)), Evidence(comparison=turned))
    assert (outcome.holds, outcome.why.startswith("Not enough evidence: 100 of 500")) == (False, True)


def test_a_baseline_that_cannot_be_read_is_wrong_but_one_that_nobody_judged_is_not() -> None:
    assert counted("choice", graded([None])[0], is_candidate=False) == 0.0
    assert counted("choice", graded([None], "judge_refused")[0], is_candidate=False) is None
    assert counted("overall", graded([None], "judge_refused")[0], is_candidate=False) is None
    assert counted("overall", graded([None], "judge_refused")[0], is_candidate=True) == 0.0


def test_a_floor_is_of_all_rows() -> None:
    few = graded([1.0] * 5 + [None] * 15)
    seen = results_of([], few)[-1]
    assert seen.mean == 1.0
    result = result_strictly(True, few, seen)
    assert (result.n, result.mean, result.ungradable) == (20, 0.25, 15)
    outcome = judge(Rule("one", "e", "", Floor(0.5)), Evidence(result=result))
    assert (outcome.holds, "15 without a grade count 0" in outcome.why) == (False, True)
    lone = result_strictly(True, few[:1], seen)
    assert judge(Rule("one", "e", "", Floor(0.5)), Evidence(result=lone)).why.startswith("Not enough evidence: 1 rows")


PAIRS = [PairScores(float(k % 2), 0.5) for k in range(40)]
SWAPS = [SwapGrades("he/she", True, True)] * 40
GAPS: list[tuple[str | None, float | None]] = [("ab"[k % 2], 1.0) for k in range(40)]


@pytest.mark.parametrize(
    ("demand", "full", "holes"),
    [
        (MinimalPairs(effect_max=0.5), minimal_pairs(PAIRS), minimal_pairs([*PAIRS, *[None] * 4])),
        (
            TermSwaps((("he", "she"),), 0.5),
            term_swaps(SWAPS),
            term_swaps([*SWAPS, *[SwapGrades("he/she", True, None)] * 4]),
        ),
        (GroupGap("item.a", effect_max=0.5), group_gap(GAPS), group_gap([*GAPS, *[("a", None)] * 4])),
    ],
    ids=["pairs", "swaps", "gap"],
)
def test_a_test_of_bias_with_holes_shows_nothing(demand: Demand, full: object, holes: object) -> None:
    assert judge(Rule("one", "e", "", demand), Evidence(bias=full)).holds  # type: ignore[arg-type]
    outcome = judge(Rule("one", "e", "", demand), Evidence(bias=holes))  # type: ignore[arg-type]
    assert (outcome.holds, "4 of 44 rows say nothing" in outcome.why) == (False, True)


def test_quick_answers_to_a_few_rows_are_no_bound() -> None:
    bound = Rule("one", "e", "", Bound(latency_p95_seconds_max=2.0))
    assert judge(bound, Evidence(cost=Cost.of([1.0] * 20, [5] * 20))).holds
    assert not judge(bound, Evidence(cost=Cost.of([1.0] * 20, [5] * 20, unanswered=2))).holds
