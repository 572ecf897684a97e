"""What a gate demands, rule by rule: checked when it is made, and stored as JSON; all pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from feinschliff.evaluation.gates.fairness import GROUP_ROWS_MIN
from feinschliff.evaluation.resources import EVAL
from feinschliff.evaluation.statistics.intervals import CONFIDENCE
from feinschliff.graders import template
from feinschliff.graders.spec import refused
from feinschliff.kit import names

RULES_MAX = 32
TERMS_MAX = 200
TERM_CHARACTERS_MAX = 100
RATIO_MAX = 1000.0
LEVEL_MIN, LEVEL_MAX = 0.5, 0.999
MORE_PATH, LESS_PATH = "item.sent_more", "item.sent_less"
_RULE_ID = re.compile("[a-z0-9-]{1,64}")


@dataclass(frozen=True)
class Gain:
    """Better than the baseline; the interval's low end reaches `difference_min`."""

    kind: ClassVar[str] = "gain"
    needs_baseline: ClassVar[bool] = True
    difference_min: float = 0.0
    level: float = CONFIDENCE


@dataclass(frozen=True)
class NoLoss:
    """Not worse than the baseline by more than `margin`."""

    kind: ClassVar[str] = "no_loss"
    needs_baseline: ClassVar[bool] = True
    margin: float = 0.02
    level: float = CONFIDENCE


@dataclass(frozen=True)
class Floor:
    """A mean, or with `by_interval` its interval's low end, that must be reached."""

    kind: ClassVar[str] = "floor"
    needs_baseline: ClassVar[bool] = False
    mean_min: float = 0.0
    by_interval: bool = False


@dataclass(frozen=True)
class Bound:
    """What answers may take; 0: no bound. The ratios are to the baseline."""

    kind: ClassVar[str] = "bound"
    latency_p95_seconds_max: float = 0.0
    tokens_mean_max: float = 0.0
    latency_ratio_max: float = 0.0
    tokens_ratio_max: float = 0.0

    @property
    def needs_baseline(self) -> bool:
        return bool(self.latency_ratio_max or self.tokens_ratio_max)


@dataclass(frozen=True)
class MinimalPairs:
    kind: ClassVar[str] = "minimal_pairs"
    needs_baseline: ClassVar[bool] = False
    more_path: str = MORE_PATH
    less_path: str = LESS_PATH
    group_path: str = ""
    effect_max: float = 0.1
    level: float = CONFIDENCE


@dataclass(frozen=True)
class TermSwaps:
    kind: ClassVar[str] = "term_swaps"
    needs_baseline: ClassVar[bool] = False
    pairs: tuple[tuple[str, str], ...] = ()
    effect_max: float = 0.1
    level: float = CONFIDENCE


@dataclass(frozen=True)
class GroupGap:
    kind: ClassVar[str] = "group_gap"
    needs_baseline: ClassVar[bool] = False
    group_path: str = ""
    group_rows_min: int = GROUP_ROWS_MIN
    effect_max: float = 0.1
    level: float = CONFIDENCE


Demand = Gain | NoLoss | Floor | Bound | MinimalPairs | TermSwaps | GroupGap
KINDS: Mapping[str, type[Demand]] = {
    kind.kind: kind for kind in (Gain, NoLoss, Floor, Bound, MinimalPairs, TermSwaps, GroupGap)
}
PROBED = (MinimalPairs, TermSwaps)
"""Demands for which the model is asked more than a run of the eval asks."""


@dataclass(frozen=True)
class Rule:
    """One lane of a gate: an eval, the grader that counts (empty: `overall`), and what is demanded."""

    id: str
    eval: str
    grader: str
    demand: Demand

    @property
    def needs_run(self) -> bool:
        return not isinstance(self.demand, MinimalPairs)

    def to_json(self) -> Mapping[str, object]:
        demand = {"kind": self.demand.kind, **dataclasses.asdict(self.demand)}
        return {"id": self.id, "eval": self.eval, "grader": self.grader, "demand": demand}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Rule:
        values = dict(stored["demand"])
        kind = KINDS[values.pop("kind")]
        if kind is TermSwaps:
            values["pairs"] = tuple((first, second) for first, second in values["pairs"])
        return cls(stored["id"], stored["eval"], stored["grader"], kind(**values))


def check_rules(rules: Sequence[Rule], project: str, *, field: str = "gate_policy.rules") -> None:
    """Raises Invalid GATE_RULES_COUNT, GATE_RULE_ID, GATE_EVAL_FOREIGN or GATE_DEMAND_RANGE, or for a path."""
    if not 1 <= len(rules) <= RULES_MAX:
        message = f"A gate has 1 to {RULES_MAX} rules; this one has {len(rules)}."
        raise refused("GATE_RULES_COUNT", field, message, count=len(rules))
    seen: set[str] = set()
    for index, rule in enumerate(rules):
        where = f"{field}[{index}]"
        if not _RULE_ID.fullmatch(rule.id) or rule.id in seen:
            message = f"{rule.id!r} is no id of its own: 1 to 64 characters of a-z 0-9 -, each once in a gate."
            raise refused("GATE_RULE_ID", f"{where}.id", message, id=rule.id)
        seen.add(rule.id)
        ids = names.parse(EVAL, rule.eval, field=f"{where}.eval")
        if f"projects/{ids['project']}" != project:
            message = f"{rule.eval} is in another project than the gate."
            raise refused("GATE_EVAL_FOREIGN", f"{where}.eval", message, eval=rule.eval)
        _check_demand(rule.demand, f"{where}.{_field_of(rule.demand)}")


def _check_demand(demand: Demand, field: str) -> None:
    if not isinstance(demand, Floor | Bound):
        _within(demand.level, f"{field}.level", LEVEL_MIN, LEVEL_MAX)
    match demand:
        case Gain():
            _within(demand.difference_min, f"{field}.difference_min", 0, 1)
        case NoLoss():
            _within(demand.margin, f"{field}.margin", 0, 1)
        case Floor():
            _within(demand.mean_min, f"{field}.mean_min", 0, 1)
        case Bound():
            _check_bound(demand, field)
        case MinimalPairs():
            _check_effect(demand.effect_max, field)
            template.parse_path(demand.more_path, field=f"{field}.minimal_pairs.more_path")
            template.parse_path(demand.less_path, field=f"{field}.minimal_pairs.less_path")
            if demand.group_path:
                template.parse_path(demand.group_path, field=f"{field}.minimal_pairs.group_path")
        case TermSwaps():
            _check_effect(demand.effect_max, field)
            _check_terms(demand.pairs, f"{field}.term_swaps.pairs")
        case GroupGap():
            _check_effect(demand.effect_max, field)
            template.parse_path(demand.group_path, field=f"{field}.group_gap.group_path")
            _within(demand.group_rows_min, f"{field}.group_gap.group_rows_min", 2, 2**31 - 1)


def _check_bound(bound: Bound, field: str) -> None:
    values = dataclasses.asdict(bound)
    if not any(values.values()):
        raise refused("GATE_DEMAND_RANGE", field, "A bound needs at least one of its fields above 0.", name="bound")
    for name, value in values.items():
        _within(value, f"{field}.{name}", 0, RATIO_MAX if "ratio" in name else 1e9)


def _check_effect(effect_max: float, field: str) -> None:
    _within(effect_max, f"{field}.effect_max", 0, 1, is_low_open=True)


def _check_terms(pairs: Sequence[tuple[str, str]], field: str) -> None:
    if not 1 <= len(pairs) <= TERMS_MAX:
        message = f"A swap has 1 to {TERMS_MAX} pairs of terms; this one has {len(pairs)}."
        raise refused("GATE_DEMAND_RANGE", field, message, count=len(pairs))
    for index, (first, second) in enumerate(pairs):
        fits = all(1 <= len(term.strip()) == len(term) <= TERM_CHARACTERS_MAX for term in (first, second))
        if not fits or first.casefold() == second.casefold():
            message = f"A pair is two different terms of 1 to {TERM_CHARACTERS_MAX} characters without blanks around."
            raise refused("GATE_DEMAND_RANGE", f"{field}[{index}]", message, first=first[:80], second=second[:80])


def _within(value: float, field: str, low: float, high: float, *, is_low_open: bool = False) -> None:
    if not low <= value <= high or (is_low_open and value == low):  # NaN lies nowhere
        name = field.rsplit(".", 1)[-1]
        message = f"{name} is {value}; it is {'above ' if is_low_open else ''}{low:g} to {high:g}."
        raise refused("GATE_DEMAND_RANGE", field, message, name=name, value=value)


def _field_of(demand: Demand) -> str:
    return "bias" if isinstance(demand, MinimalPairs | TermSwaps | GroupGap) else demand.kind
