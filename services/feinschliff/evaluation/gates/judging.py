"""Whether one rule of a gate holds, from what was measured; all pure, with the numbers in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from feinschliff.evaluation.gates.evidence import too_little
from feinschliff.evaluation.gates.fairness import GROUPS_MAX, BiasNumbers, GroupNumbers
from feinschliff.evaluation.gates.rules import Bound, Floor, Gain, GroupGap, MinimalPairs, NoLoss, Rule, TermSwaps
from feinschliff.evaluation.resources import GraderResult
from feinschliff.evaluation.statistics.effects import judged
from feinschliff.evaluation.statistics.intervals import Interval, Method
from feinschliff.evaluation.statistics.paired import Comparison, Verdict

P95 = 0.95


class Cost(NamedTuple):
    """What the answers of a run took; None where there is no answer."""

    answers: int
    latency_p95_seconds: float | None
    latency_mean_seconds: float | None
    tokens_mean: float | None
    unanswered: int = 0

    @classmethod
    def of(cls, latencies: Sequence[float], tokens: Sequence[int], unanswered: int = 0) -> Cost:
        """`tokens` are those of prompt and answer together, one number per answer."""
        n = len(latencies)
        if n == 0:
            return cls(0, None, None, None, unanswered)
        slowest = sorted(latencies)[min(n - 1, math.ceil(P95 * n) - 1)]
        return cls(n, slowest, math.fsum(latencies) / n, sum(tokens) / n, unanswered)


class Evidence(NamedTuple):
    """What a rule is judged by; what its demand does not need is None."""

    candidate_run: str = ""
    baseline_run: str = ""
    comparison: Comparison | None = None
    result: GraderResult | None = None
    cost: Cost | None = None
    baseline_cost: Cost | None = None
    bias: BiasNumbers | None = None


class Outcome(NamedTuple):
    """Whether a rule holds, why, and by which numbers."""

    rule_id: str
    holds: bool
    why: str
    grader: str = ""
    level: float = 0.0
    candidate_run: str = ""
    baseline_run: str = ""
    comparison: Comparison | None = None
    result: GraderResult | None = None
    bias: BiasNumbers | None = None

    def to_json(self) -> dict[str, object]:
        return {
            **self._asdict(),
            "comparison": None if self.comparison is None else _comparison_json(self.comparison),
            "result": None if self.result is None else self.result.to_json(),
            "bias": None if self.bias is None else _bias_json(self.bias),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Outcome:
        comparison, result, bias = stored["comparison"], stored["result"], stored["bias"]
        return cls(
            **{
                **stored,
                "comparison": None if comparison is None else _comparison_of(comparison),
                "result": None if result is None else GraderResult.from_json(result),
                "bias": None if bias is None else _bias_of(bias),
            }
        )


def judge(rule: Rule, evidence: Evidence) -> Outcome:
    """Whether the rule holds. Too little evidence is never a pass: what cannot be shown does not hold."""
    match rule.demand:
        case Gain():
            holds, why = _gain(rule.demand, evidence.comparison)
        case NoLoss():
            holds, why = _no_loss(rule.demand, evidence.comparison)
        case Floor():
            holds, why = _floor(rule.demand, evidence.result)
        case Bound():
            holds, why = _bound(rule.demand, evidence)
        case MinimalPairs() | TermSwaps() | GroupGap():
            holds, why = _bias(rule.demand.effect_max, evidence.bias)
    return Outcome(
        rule_id=rule.id,
        holds=holds,
        why=why,
        grader=rule.grader,
        level=getattr(rule.demand, "level", 0.0),
        candidate_run=evidence.candidate_run,
        baseline_run=evidence.baseline_run,
        comparison=evidence.comparison,
        result=evidence.result,
        bias=evidence.bias,
    )


def _gain(demand: Gain, numbers: Comparison | None) -> tuple[bool, str]:
    if numbers is None or numbers.p is None or numbers.difference is None:
        return False, "Too few rows were graded in both runs to say anything."
    if lacking := too_little(numbers.clusters or numbers.n, numbers.unpaired):
        return False, lacking
    seen = judged(numbers, numbers.p, alpha=1 - demand.level, difference_min=demand.difference_min)
    facts = f"difference {numbers.difference:+.4f}{_range(numbers.interval)}, p = {numbers.p:.4g}, {_count(numbers)}"
    wanted = f"better at {demand.level:g}"
    if demand.difference_min:
        wanted += f" by at least {demand.difference_min:g}"
    return seen is Verdict.BETTER, f"Wanted {wanted}; {facts}."


def _no_loss(demand: NoLoss, numbers: Comparison | None) -> tuple[bool, str]:
    if numbers is None or numbers.interval is None or numbers.difference is None:
        return False, "Too few rows were graded in both runs to say anything."
    if lacking := too_little(numbers.clusters or numbers.n, numbers.unpaired):
        return False, lacking
    holds = numbers.interval.low > -demand.margin
    facts = f"difference {numbers.difference:+.4f}{_range(numbers.interval)}, {_count(numbers)}"
    short = "" if holds or numbers.difference < -demand.margin else " More rows would narrow the interval."
    return holds, f"Wanted no loss beyond {demand.margin:g} at {demand.level:g}; {facts}.{short}"


def _floor(demand: Floor, result: GraderResult | None) -> tuple[bool, str]:
    if result is None or result.mean is None:
        return False, "No row was graded."
    if lacking := too_little(result.clusters or result.n, 0):
        return False, lacking
    facts = f"mean {result.mean:.4f}{_range(result.interval)}, {_count(result)}"
    if result.ungradable or result.errored:
        facts += f", of which {result.ungradable + result.errored} without a grade count 0"
    if not demand.by_interval:
        return result.mean >= demand.mean_min, f"Wanted a mean of at least {demand.mean_min:g}; {facts}."
    holds = result.interval is not None and result.interval.low >= demand.mean_min
    return holds, f"Wanted an interval above {demand.mean_min:g}; {facts}."


def _count(numbers: Comparison | GraderResult) -> str:
    differ = f" of {numbers.clusters} different rows" if 0 < numbers.clusters < numbers.n else ""
    return f"n = {numbers.n}{differ}"


def _bound(demand: Bound, evidence: Evidence) -> tuple[bool, str]:
    cost, base = evidence.cost, evidence.baseline_cost
    if cost is None or cost.latency_p95_seconds is None:
        return False, "No answer was timed."
    if lacking := too_little(cost.answers, cost.unanswered):
        return False, lacking
    latency_ratio = _ratio(cost.latency_mean_seconds, base and base.latency_mean_seconds)
    tokens_ratio = _ratio(cost.tokens_mean, base and base.tokens_mean)
    checks = [
        ("95 % of answers within seconds", cost.latency_p95_seconds, demand.latency_p95_seconds_max),
        ("mean tokens", cost.tokens_mean, demand.tokens_mean_max),
        (
            "time over the baseline's",
            latency_ratio,
            demand.latency_ratio_max,
        ),
        ("tokens over the baseline's", tokens_ratio, demand.tokens_ratio_max),
    ]
    asked = [(what, seen, most) for what, seen, most in checks if most]
    holds = all(seen is not None and seen <= most for _, seen, most in asked)
    words = (
        f"{what} {'unknown' if seen is None else format(seen, '.4g')} (at most {most:g})" for what, seen, most in asked
    )
    return holds, f"{'; '.join(words)}; {cost.answers} answers."


def _bias(effect_max: float, numbers: BiasNumbers | None) -> tuple[bool, str]:
    if numbers is None or numbers.effect is None or numbers.interval is None:
        return False, f"Too few rows, or more than {GROUPS_MAX} groups, say anything about bias."
    if lacking := too_little(numbers.n, numbers.ungraded):
        return False, lacking
    holds = numbers.interval.high <= effect_max
    facts = f"effect {numbers.effect:.4f}{_range(numbers.interval)}, n = {numbers.n}"
    short = "" if holds or numbers.effect > effect_max else " More rows would narrow the interval."
    return holds, f"Wanted an effect of at most {effect_max:g} with its whole interval; {facts}.{short}"


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval.low:+.4f}, {interval.high:+.4f}]"


def _comparison_json(numbers: Comparison) -> dict[str, object]:
    return {
        **numbers._asdict(),
        "interval": _ends(numbers.interval),
        "method": numbers.method.value,
        "verdict": numbers.verdict.value,
    }


def _comparison_of(stored: dict[str, Any]) -> Comparison:
    interval = Interval(*stored["interval"]) if stored["interval"] else None
    method, verdict = Method(stored["method"]), Verdict(stored["verdict"])
    return Comparison(**{**stored, "interval": interval, "method": method, "verdict": verdict})


def _bias_json(numbers: BiasNumbers) -> dict[str, object]:
    groups = [{**group._asdict(), "interval": _ends(group.interval)} for group in numbers.groups]
    return {**numbers._asdict(), "interval": _ends(numbers.interval), "groups": groups}


def _bias_of(stored: dict[str, Any]) -> BiasNumbers:
    groups = [
        GroupNumbers(**{**group, "interval": Interval(*group["interval"]) if group["interval"] else None})
        for group in stored["groups"]
    ]
    interval = Interval(*stored["interval"]) if stored["interval"] else None
    return BiasNumbers(**{**stored, "interval": interval, "groups": groups})


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
