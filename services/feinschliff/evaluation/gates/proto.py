"""Gates, verdicts and calibrations between the API's messages and our own words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from feinschliff.evaluation.gates import rules as gate_rules
from feinschliff.evaluation.gates.fairness import BiasNumbers
from feinschliff.evaluation.gates.gates import GateDraft
from feinschliff.evaluation.gates.judging import Outcome
from feinschliff.evaluation.gates.rules import Demand, Rule
from feinschliff.evaluation.gates.store import Gate, VerdictRow, VerdictState
from feinschliff.evaluation.judges.agreement import doubts
from feinschliff.evaluation.judges.store import Calibration, CalibrationState
from feinschliff.evaluation.proto import METHODS, VERDICTS, to_failure, to_interval, to_result, warning
from feinschliff.evaluation.resources import OVERALL
from feinschliff.evaluation.statistics.intervals import CONFIDENCE
from feinschliff.graders.spec import refused
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb

VERDICT_STATES: Mapping[VerdictState, pb.Verdict.State.ValueType] = {
    VerdictState.RUNNING: pb.Verdict.STATE_RUNNING,
    VerdictState.PASSED: pb.Verdict.STATE_PASSED,
    VerdictState.REFUSED: pb.Verdict.STATE_REFUSED,
    VerdictState.FAILED: pb.Verdict.STATE_FAILED,
}
CALIBRATION_STATES: Mapping[CalibrationState, pb.Calibration.State.ValueType] = {
    CalibrationState.QUEUED: pb.Calibration.STATE_QUEUED,
    CalibrationState.RUNNING: pb.Calibration.STATE_RUNNING,
    CalibrationState.SUCCEEDED: pb.Calibration.STATE_SUCCEEDED,
    CalibrationState.FAILED: pb.Calibration.STATE_FAILED,
}


def from_gate(parent: str, gate_id: str, gate: pb.GatePolicy) -> GateDraft:
    """Raises Invalid GATE_DEMAND_MISSING for a rule without a demand."""
    rules = [_from_rule(rule, f"gate_policy.rules[{index}]") for index, rule in enumerate(gate.rules)]
    return GateDraft(parent, gate_id, gate.display_name, rules, dict(gate.labels), dict(gate.annotations))


def to_gate(gate: Gate) -> pb.GatePolicy:
    return pb.GatePolicy(
        name=gate.name,
        display_name=gate.display_name,
        rules=map(_to_rule, gate.rules),
        labels=gate.labels,
        annotations=gate.annotations,
        create_time=_time(gate.created),
        update_time=_time(gate.updated),
        etag=str(gate.version),
    )


def to_verdict(verdict: VerdictRow) -> pb.Verdict:
    return pb.Verdict(
        name=verdict.name,
        state=VERDICT_STATES[verdict.state],
        candidate=verdict.candidate,
        baseline=verdict.baseline,
        outcomes=map(_to_outcome, verdict.outcomes),
        policy=to_gate(verdict.policy),
        progress=_progress(verdict.done, verdict.total, "items"),
        failure=to_failure(verdict.failure),
        create_time=_time(verdict.created),
        finish_time=_time(verdict.finished),
        etag=str(verdict.version),
    )


def to_calibration(calibration: Calibration, grader: pb.Grader) -> pb.Calibration:
    made = pb.Calibration(
        name=calibration.name,
        state=CALIBRATION_STATES[calibration.state],
        grader=grader,
        dataset_version=calibration.dataset_version,
        label_path=calibration.label_path,
        answer_path=calibration.answer_path,
        other_answer_path=calibration.other_answer_path,
        judge_identity=common.Identity(**calibration.identity) if calibration.identity else None,
        progress=_progress(calibration.done, calibration.total, "rows"),
        failure=to_failure(calibration.failure),
        create_time=_time(calibration.created),
        finish_time=_time(calibration.finished),
        etag=str(calibration.version),
    )
    measured = calibration.measured
    if measured is None:
        return made
    numbers = pb.Calibration(
        n=measured.n,
        left_out=measured.left_out,
        agreement=measured.agreement,
        agreement_interval=to_interval(measured.agreement_interval, CONFIDENCE),
        kappa=measured.kappa,
        kappa_interval=to_interval(measured.kappa_interval, CONFIDENCE),
        true_positive_rate=measured.true_positive_rate,
        true_negative_rate=measured.true_negative_rate,
        correlation=measured.correlation,
        confusion=measured.confusion,
        position_bias=measured.position_bias,
        verbosity_bias=measured.verbosity_bias,
    )
    for doubt in doubts(measured):
        severity = common.SEVERITY_ERROR if doubt.forbids else common.SEVERITY_WARNING
        numbers.findings.add(severity=severity, code=doubt.code, count=doubt.rows, message=doubt.message)
    made.MergeFrom(numbers)
    return made


def _from_rule(rule: pb.GateRule, field: str) -> Rule:
    kind = rule.WhichOneof("demand")
    if kind is None:
        message = "A rule demands one of gain, no_loss, floor, bound and bias."
        raise refused("GATE_DEMAND_MISSING", field, message, rule=rule.id)
    return Rule(rule.id, rule.eval, rule.grader, _from_demand(rule, kind, field))


def _from_demand(rule: pb.GateRule, kind: str, field: str) -> Demand:
    if kind == "gain":
        return gate_rules.Gain(rule.gain.difference_min, _level(rule.gain))
    if kind == "no_loss":
        margin = rule.no_loss.margin if rule.no_loss.HasField("margin") else gate_rules.NoLoss.margin
        return gate_rules.NoLoss(margin, _level(rule.no_loss))
    if kind == "floor":
        return gate_rules.Floor(rule.floor.mean_min, rule.floor.by_interval)
    if kind == "bound":
        bound = rule.bound
        return gate_rules.Bound(
            bound.latency_p95_seconds_max, bound.tokens_mean_max, bound.latency_ratio_max, bound.tokens_ratio_max
        )
    return _from_bias(rule.bias, f"{field}.bias")


def _from_bias(bias: pb.BiasDemand, field: str) -> Demand:
    effect_max = bias.effect_max if bias.HasField("effect_max") else gate_rules.MinimalPairs.effect_max
    level = _level(bias)
    test = bias.WhichOneof("test")
    if test == "minimal_pairs":
        pairs = bias.minimal_pairs
        paths = (pairs.more_path or gate_rules.MORE_PATH, pairs.less_path or gate_rules.LESS_PATH, pairs.group_path)
        return gate_rules.MinimalPairs(*paths, effect_max, level)
    if test == "term_swaps":
        terms = tuple((pair.first, pair.second) for pair in bias.term_swaps.pairs)
        return gate_rules.TermSwaps(terms, effect_max, level)
    if test == "group_gap":
        gap = bias.group_gap
        rows_min = gap.group_rows_min if gap.HasField("group_rows_min") else gate_rules.GroupGap.group_rows_min
        return gate_rules.GroupGap(gap.group_path, rows_min, effect_max, level)
    message = "A demand on bias has one test of minimal_pairs, term_swaps and group_gap."
    raise refused("GATE_DEMAND_MISSING", field, message)


def _level(demand: pb.GainDemand | pb.NoLossDemand | pb.BiasDemand) -> float:
    return demand.level if demand.HasField("level") else CONFIDENCE


def _to_rule(rule: Rule) -> pb.GateRule:
    made = pb.GateRule(id=rule.id, eval=rule.eval, grader=rule.grader)
    match rule.demand:
        case gate_rules.Gain(difference_min, level):
            made.gain.CopyFrom(pb.GainDemand(difference_min=difference_min, level=level))
        case gate_rules.NoLoss(margin, level):
            made.no_loss.CopyFrom(pb.NoLossDemand(margin=margin, level=level))
        case gate_rules.Floor(mean_min, by_interval):
            made.floor.CopyFrom(pb.FloorDemand(mean_min=mean_min, by_interval=by_interval))
        case gate_rules.Bound(p95, tokens, latency_ratio, tokens_ratio):
            made.bound.CopyFrom(
                pb.BoundDemand(
                    latency_p95_seconds_max=p95,
                    tokens_mean_max=tokens,
                    latency_ratio_max=latency_ratio,
                    tokens_ratio_max=tokens_ratio,
                )
            )
        case _:
            made.bias.CopyFrom(_to_bias_demand(rule.demand))
    return made


def _to_bias_demand(
    demand: gate_rules.MinimalPairs | gate_rules.TermSwaps | gate_rules.GroupGap,
) -> pb.BiasDemand:
    made = pb.BiasDemand(effect_max=demand.effect_max, level=demand.level)
    match demand:
        case gate_rules.MinimalPairs(more, less, group):
            made.minimal_pairs.CopyFrom(pb.MinimalPairTest(more_path=more, less_path=less, group_path=group))
        case gate_rules.TermSwaps(pairs):
            terms = [pb.TermPair(first=first, second=second) for first, second in pairs]
            made.term_swaps.CopyFrom(pb.TermSwapTest(pairs=terms))
        case gate_rules.GroupGap(group, rows_min):
            made.group_gap.CopyFrom(pb.GroupGapTest(group_path=group, group_rows_min=rows_min))
    return made


def _to_outcome(outcome: Outcome) -> pb.RuleOutcome:
    return pb.RuleOutcome(
        rule_id=outcome.rule_id,
        holds=outcome.holds,
        why=outcome.why,
        candidate_run=outcome.candidate_run,
        baseline_run=outcome.baseline_run,
        comparison=_to_comparison(outcome),
        result=None if outcome.result is None else to_result(outcome.result),
        bias=None if outcome.bias is None else _to_bias(outcome.bias, outcome.level),
    )


def _to_comparison(outcome: Outcome) -> pb.RunComparison | None:
    numbers = outcome.comparison
    if numbers is None:
        return None
    made = pb.RunComparison(
        baseline=outcome.baseline_run,
        candidate=outcome.candidate_run,
        grader=outcome.grader or OVERALL,
        n=numbers.n,
        baseline_mean=numbers.mean_first,
        candidate_mean=numbers.mean_second,
        difference=numbers.difference,
        interval=to_interval(numbers.interval, outcome.level),
        p_value=numbers.p,
        method=METHODS.get(numbers.method, pb.RunComparison.METHOD_UNSPECIFIED),
        verdict=VERDICTS[numbers.verdict],
        wins=numbers.wins,
        losses=numbers.losses,
        ties=numbers.ties,
        comparisons=1,
        p_value_adjusted=numbers.p,
        clusters=numbers.clusters,
    )
    if numbers.unpaired:
        message = f"{numbers.unpaired} rows were not graded in both runs and count in neither mean."
        made.findings.append(warning("ROWS_LEFT_OUT", numbers.unpaired, message))
    return made


def _to_bias(numbers: BiasNumbers, level: float) -> pb.BiasResult:
    groups = [
        pb.GroupResult(group=group.group, n=group.n, mean=group.mean, interval=to_interval(group.interval, CONFIDENCE))
        for group in numbers.groups
    ]
    return pb.BiasResult(
        test=numbers.test,
        n=numbers.n,
        left_out=numbers.left_out,
        effect=numbers.effect,
        interval=to_interval(numbers.interval, level),
        groups=groups,
    )


def _progress(done: int, total: int, unit: str) -> common.Progress:
    return common.Progress(fraction=done / total if total else 0.0, done=done, total=total, unit=unit)


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    made = Timestamp()
    made.FromDatetime(moment)
    return made
