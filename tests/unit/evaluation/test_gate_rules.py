"""Rules of gates: checked when they are made, stored as JSON, judged by numbers alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from feinschliff.evaluation.gates.fairness import BiasNumbers, GroupNumbers
from feinschliff.evaluation.gates.judging import Cost, Evidence, Outcome, judge
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
    check_rules,
)
from feinschliff.evaluation.resources import GraderResult
from feinschliff.evaluation.statistics.intervals import Interval
from feinschliff.evaluation.statistics.paired import compare
from feinschliff.kit.errors import Invalid

PROJECT = "projects/default"
EVAL = f"{PROJECT}/evals/e"
DEMANDS: list[Demand] = [
    Gain(0.05, 0.9),
    NoLoss(),
    Floor(0.8, True),
    Bound(latency_p95_seconds_max=2.0, tokens_ratio_max=1.5),
    MinimalPairs(group_path="item.kind"),
    TermSwaps((("he", "she"), ("Ann", "Bob")), 0.2),
    GroupGap("item.region", 20),
]


def rule(demand: Demand, rule_id: str = "one", eval_: str = EVAL) -> Rule:
    return Rule(rule_id, eval_, "", demand)


@pytest.mark.parametrize("demand", DEMANDS, ids=lambda demand: demand.kind)
def test_a_rule_is_read_as_it_was_stored(demand: Demand) -> None:
    check_rules([rule(demand)], PROJECT)
    assert Rule.from_json(json.loads(json.dumps(rule(demand).to_json()))) == rule(demand)


@pytest.mark.parametrize(
    ("rules", "reason", "field"),
    [
        ([], "GATE_RULES_COUNT", "gate_policy.rules"),
        ([rule(Gain(), f"r{k}") for k in range(33)], "GATE_RULES_COUNT", "gate_policy.rules"),
        ([rule(Gain(), "Big Words")], "GATE_RULE_ID", "gate_policy.rules[0].id"),
        ([rule(Gain()), rule(NoLoss())], "GATE_RULE_ID", "gate_policy.rules[1].id"),
        ([rule(Gain(), eval_="e")], "NAME_MALFORMED", "gate_policy.rules[0].eval"),
        ([rule(Gain(), eval_="projects/other/evals/e")], "GATE_EVAL_FOREIGN", "gate_policy.rules[0].eval"),
        ([rule(Gain(level=0.2))], "GATE_DEMAND_RANGE", "gate_policy.rules[0].gain.level"),
        ([rule(Gain(-0.1))], "GATE_DEMAND_RANGE", "gate_policy.rules[0].gain.difference_min"),
        ([rule(Gain(math.nan))], "GATE_DEMAND_RANGE", "gate_policy.rules[0].gain.difference_min"),
        ([rule(NoLoss(1.5))], "GATE_DEMAND_RANGE", "gate_policy.rules[0].no_loss.margin"),
        ([rule(Floor(2.0))], "GATE_DEMAND_RANGE", "gate_policy.rules[0].floor.mean_min"),
        ([rule(Bound())], "GATE_DEMAND_RANGE", "gate_policy.rules[0].bound"),
        ([rule(Bound(latency_ratio_max=-1))], "GATE_DEMAND_RANGE", "gate_policy.rules[0].bound.latency_ratio_max"),
        ([rule(MinimalPairs(effect_max=0))], "GATE_DEMAND_RANGE", "gate_policy.rules[0].bias.effect_max"),
        ([rule(TermSwaps())], "GATE_DEMAND_RANGE", "gate_policy.rules[0].bias.term_swaps.pairs"),
        ([rule(TermSwaps((("he", "HE"),)))], "GATE_DEMAND_RANGE", "gate_policy.rules[0].bias.term_swaps.pairs[0]"),
        ([rule(GroupGap("item."))], "TEMPLATE_SYNTAX", "gate_policy.rules[0].bias.group_gap.group_path"),
        ([rule(GroupGap("item.a", 1))], "GATE_DEMAND_RANGE", "gate_policy.rules[0].bias.group_gap.group_rows_min"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_its_field(rules: list[Rule], reason: str, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_rules(rules, PROJECT)
    assert caught.value.reason == reason
    assert caught.value.fields[0].field == field


def paired(wins: int, losses: int, both: int, neither: int) -> Evidence:
    first = [0.0] * wins + [1.0] * (losses + both) + [0.0] * neither
    second = [1.0] * wins + [0.0] * losses + [1.0] * both + [0.0] * neither
    return Evidence(comparison=compare(first, second, is_binary=True))


def result(mean: float, low: float, n: int = 50) -> Evidence:
    return Evidence(result=GraderResult("overall", n, 0, 0, int(mean * n), mean, Interval(low, 1.0)))


def bias(effect: float | None, high: float) -> Evidence:
    interval = None if effect is None else Interval(0.0, high)
    group = GroupNumbers("a", 30, 0.5, None)
    return Evidence(bias=BiasNumbers("group_gap", 30, 1, effect, interval, [group]))


COST = Cost(20, 1.5, 1.0, 120.0)


@pytest.mark.parametrize(
    ("demand", "evidence", "holds", "word"),
    [
        (Gain(), paired(12, 0, 50, 10), True, "difference +0.1667"),
        (Gain(), paired(6, 1, 50, 10), False, "p = 0.125"),
        (Gain(), paired(0, 12, 50, 10), False, "difference -0.1667"),
        (Gain(0.05), paired(12, 0, 50, 10), True, "by at least 0.05"),
        (Gain(0.15), paired(12, 0, 50, 10), False, "by at least 0.15"),
        (Gain(), Evidence(), False, "Too few rows"),
        (NoLoss(), paired(0, 0, 500, 100), True, "no loss beyond 0.02"),
        (NoLoss(), paired(2, 2, 30, 6), False, "More rows would narrow"),
        (NoLoss(), paired(0, 30, 60, 10), False, "difference -0.3000"),
        (NoLoss(), Evidence(), False, "Too few rows"),
        (Floor(0.8), result(0.8, 0.7), True, "mean 0.8000"),
        (Floor(0.8, True), result(0.8, 0.7), False, "interval above 0.8"),
        (Floor(0.8, True), result(0.9, 0.81), True, "n = 50"),
        (Floor(0.0), Evidence(), False, "No row"),
        (Bound(latency_p95_seconds_max=1.5), Evidence(cost=COST), True, "1.5 (at most 1.5)"),
        (Bound(latency_p95_seconds_max=1.4), Evidence(cost=COST), False, "1.5 (at most 1.4)"),
        (Bound(tokens_mean_max=100), Evidence(cost=COST), False, "120 (at most 100)"),
        (Bound(tokens_ratio_max=1.2), Evidence(cost=COST, baseline_cost=Cost(20, 1, 1, 100.0)), True, "20 answers"),
        (Bound(latency_ratio_max=2), Evidence(cost=COST), False, "unknown (at most 2)"),
        (Bound(tokens_mean_max=100), Evidence(cost=Cost.of([], [])), False, "No answer"),
        (GroupGap("item.a"), bias(0.05, 0.1), True, "effect 0.0500"),
        (GroupGap("item.a"), bias(0.05, 0.11), False, "More rows would narrow"),
        (MinimalPairs(), bias(0.3, 0.4), False, "effect 0.3000"),
        (TermSwaps((("a", "b"),)), bias(None, 0), False, "Too few rows"),
    ],
)
def test_a_rule_holds_only_where_the_numbers_show_it(
    demand: Demand, evidence: Evidence, holds: bool, word: str
) -> None:
    outcome = judge(rule(demand), replace_runs(evidence))
    assert outcome.holds is holds
    assert word in outcome.why
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


def replace_runs(evidence: Evidence) -> Evidence:
    return evidence._replace(candidate_run=f"{EVAL}/runs/c", baseline_run=f"{EVAL}/runs/b")


def test_the_95th_percentile_is_that_of_the_answers() -> None:
    cost = Cost.of([float(k) for k in range(1, 101)], [10] * 100)
    assert (cost.latency_p95_seconds, cost.latency_mean_seconds, cost.tokens_mean) == (95.0, 50.5, 10.0)
    assert Cost.of([3.0], [7]).latency_p95_seconds == 3.0
    assert replace(Bound(), tokens_ratio_max=2.0).needs_baseline
    assert not Bound(tokens_mean_max=2.0).needs_baseline
