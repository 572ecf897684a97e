"""Measures a candidate against a gate: runs of its evals, probes for bias, then a verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from feinschliff.evaluation.clients import Versions
from feinschliff.evaluation.drafts import Once, RunDraft
from feinschliff.evaluation.evaluations import Evaluations
from feinschliff.evaluation.gates.evidence import compare_strictly, result_strictly
from feinschliff.evaluation.gates.fairness import BiasNumbers
from feinschliff.evaluation.gates.judging import Cost, Evidence, judge
from feinschliff.evaluation.gates.probes import Probes, gap_of, passed_by
from feinschliff.evaluation.gates.rules import (
    PROBED,
    Bound,
    Floor,
    Gain,
    GroupGap,
    MinimalPairs,
    NoLoss,
    Rule,
    TermSwaps,
)
from feinschliff.evaluation.gates.store import Gate, VerdictRow, VerdictState
from feinschliff.evaluation.gates.verdicts import Verdicts
from feinschliff.evaluation.judges.trust import Credentials, calibrated, check_judgements, require_calibrated
from feinschliff.evaluation.life import UNFINISHED, State
from feinschliff.evaluation.resources import OVERALL, Eval, GraderResult, Run
from feinschliff.evaluation.runs import item_store
from feinschliff.evaluation.runs.comparisons import Comparisons, grader_named
from feinschliff.evaluation.runs.plan import Plan, prompt_named_by, unlike
from feinschliff.evaluation.runs.runs import Runs, RunView
from feinschliff.evaluation.runs.sources import Sources
from feinschliff.evaluation.statistics.paired import Comparison
from feinschliff.evaluation.work.keeping import Halted
from feinschliff.evaluation.work.row_work import Rows
from feinschliff.formats.report import Failure
from feinschliff.graders.spec import Spec, refused
from feinschliff.kit import names
from feinschliff.kit.db import Database
from feinschliff.kit.errors import AlreadyExists, WrongState
from feinschliff.kit.failpoints import fail
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake

VERSION = "projects/{project}/models/{model}/versions/{version}"
BY_ALIAS = "projects/{project}/models/{model}@{alias}"
LOOK_SECONDS = 0.5
CANDIDATE, BASELINE = "candidate", "baseline"


class RunKey(NamedTuple):
    """One run that a verdict needs; several rules may share it."""

    eval: str
    role: str


class GateWorker:
    """Checks whether a gate can be measured, and measures it; what is done is known from stored runs and rows alone."""

    def __init__(
        self,
        database: Database,
        evaluations: Evaluations,
        runs: Runs,
        comparisons: Comparisons,
        verdicts: Verdicts,
        probes: Probes,
        sources: Sources,
        versions: Versions,
        credentials: Credentials,
        wake: Wake,
    ) -> None:
        self._database = database
        self._evaluations = evaluations
        self._runs = runs
        self._comparisons = comparisons
        self._verdicts = verdicts
        self._probes = probes
        self._sources = sources
        self._versions = versions
        self._credentials = credentials
        self._wake = wake

    async def begin(self, gate: Gate, candidate: str, baseline: str, once: Once, *, validate_only: bool) -> VerdictRow:
        """Begins a verdict once all that it needs is there.

        Raises:
            Invalid: NAME_MALFORMED, GATE_CANDIDATE_FOREIGN, GATE_BASELINE_SAME, GRADER_UNKNOWN.
            NotFound: what the registry says of the candidate; EVAL_NOT_FOUND.
            WrongState: GATE_BASELINE_MISSING, JUDGE_NOT_CALIBRATED, JUDGE_NOT_TRUSTED, and what a run is refused for.
        """
        ids = names.parse(VERSION, candidate, field="candidate")
        if f"projects/{ids['project']}" != gate.parent:
            message = f"{candidate} is in another project than {gate.name}."
            raise refused("GATE_CANDIDATE_FOREIGN", "candidate", message, candidate=candidate)
        base = (await self._versions.get(candidate)).base
        compared_with = (await self._versions.get(baseline)).name if names.matches(BY_ALIAS, baseline) else baseline
        compared_with = compared_with or base
        if any(rule.demand.needs_baseline for rule in gate.rules):
            _check_baseline(candidate, compared_with)
        planned: dict[str, Run] = {}
        for rule in gate.rules:
            planned[rule.eval] = await self._check_rule(rule, candidate)
        probed = sum(_rows(planned[rule.eval]) for rule in gate.rules if isinstance(rule.demand, PROBED))
        total = probed + sum(planned[key.eval].total for key in runs_of(gate.rules))
        return await offload(
            self._verdicts.create, gate, candidate, compared_with, total, once, validate_only=validate_only
        )

    async def _check_rule(self, rule: Rule, candidate: str) -> Run:
        """Whether the rule could be measured; the run of its eval, as it would be."""
        eval_ = await offload(self._evaluations.get, rule.eval)
        grader_named(eval_, rule.grader or OVERALL)
        await offload(require_calibrated, _judged_by([rule], eval_), self._credentials, eval_=eval_.name)
        return (await self._create(eval_, candidate, "", validate_only=True)).run

    async def work(self, name: str) -> None:
        """Raises Halted where it cannot be found out."""
        verdict = await offload(self._verdicts.get, name)
        if verdict.state is not VerdictState.RUNNING:
            return
        views = await self._measured(verdict)
        _check_identities(verdict, views)
        for key, view in views.items():
            await offload(self._check_judges, verdict, key, view.run.name)
        outcomes = []
        done = sum(view.run.total for view in views.values())
        for rule in verdict.policy.rules:
            evidence = await self._evidence(verdict, rule, views)
            outcomes.append(judge(rule, evidence))
            if evidence.bias is not None and isinstance(rule.demand, PROBED):
                done += evidence.bias.n + evidence.bias.left_out
                await offload(self._verdicts.at, name, done, verdict.total)
            await offload(fail, "evaluation.after_rule")
        await offload(self._verdicts.give, name, outcomes)

    def _check_judges(self, verdict: VerdictRow, key: RunKey, run: str) -> None:
        """Raises Halted where another model judged than the one that people checked."""
        rules = [rule for rule in verdict.policy.rules if rule.eval == key.eval]
        known = calibrated(_judged_by(rules, self._evaluations.get(key.eval)), self._credentials)
        if not known:
            return
        with self._database.reading() as session:
            why = check_judgements(known, item_store.judgements(session, run))
        if why:
            raise Halted(Failure(reason="GATE_JUDGE_MISMATCH", message=f"In {run}: {why}"))

    async def _measured(self, verdict: VerdictRow) -> Mapping[RunKey, RunView]:
        """All runs, completed."""
        begun = {key: await self._run(verdict, key) for key in runs_of(verdict.policy.rules)}
        while True:
            turn = self._wake.turn
            views = {key: await offload(self._runs.get, view.run.name) for key, view in begun.items()}
            for view in views.values():
                _check_run(view)
            done = sum(view.run.done for view in views.values())
            await offload(self._verdicts.at, verdict.name, done, verdict.total)
            if all(view.run.state is State.COMPLETED for view in views.values()):
                return views
            await self._wake.wait(turn, LOOK_SECONDS)
            await asyncio.sleep(LOOK_SECONDS / 5)  # the wake rings for every verdict that moves, this one too

    async def _run(self, verdict: VerdictRow, key: RunKey) -> RunView:
        """The run of this verdict, begun where it is not there; its name follows from the verdict, so never twice.

        Raises Halted where somebody else took the name for a run that measures something else.
        """
        run_id = f"{verdict.name.rsplit('/', 1)[1]}-{key.role}"
        eval_ = await offload(self._evaluations.get, key.eval)
        model = verdict.candidate if key.role == CANDIDATE else verdict.baseline
        try:
            return await self._create(eval_, model, run_id, validate_only=False)
        except AlreadyExists:  # before this process was killed, or another process just now
            view = await offload(self._runs.get, f"{key.eval}/runs/{run_id}")
            planned = await self._create(eval_, model, "", validate_only=True)
        if foreign := unlike(view.run, planned.run):
            message = f"{view.run.name} is no run of this gate: its {', '.join(foreign)} differ."
            raise Halted(Failure(reason="GATE_RUN_FOREIGN", message=message))
        return view

    async def _create(self, eval_: Eval, model: str, run_id: str, *, validate_only: bool) -> RunView:
        draft = RunDraft(
            parent=eval_.name,
            run_id=run_id,
            display_name="",
            model=model,
            dataset_version="",
            sampling={},
            prompt=None,
            split="",
            limit=0,
            concurrency=0,
            answer_path="",
            labels={},
            annotations={},
        )
        facts, brought = await self._sources.brought(draft, eval_)
        create = self._runs.create
        return await offload(create, draft, facts, Once("", ""), brought=brought, validate_only=validate_only)

    async def _evidence(self, verdict: VerdictRow, rule: Rule, views: Mapping[RunKey, RunView]) -> Evidence:
        candidate, baseline = views.get(RunKey(rule.eval, CANDIDATE)), views.get(RunKey(rule.eval, BASELINE))
        grader = rule.grader or OVERALL
        evidence = Evidence()
        if candidate is not None:
            result = next((one for one in candidate.results if one.grader == grader), None)
            evidence = evidence._replace(candidate_run=candidate.run.name, result=result)
        if rule.demand.needs_baseline and baseline is not None:
            evidence = evidence._replace(baseline_run=baseline.run.name)
        match rule.demand:
            case Gain() | NoLoss():
                return evidence._replace(comparison=await offload(self._compared, evidence, grader, rule.demand.level))
            case Floor() if evidence.result is not None:
                return evidence._replace(result=await offload(self._floored, rule, evidence))
            case Bound():
                cost = await offload(self._cost, evidence.candidate_run)
                base = await offload(self._cost, evidence.baseline_run) if evidence.baseline_run else None
                return evidence._replace(cost=cost, baseline_cost=base)
            case GroupGap():
                return evidence._replace(bias=await offload(self._gap, rule.demand, grader, evidence.candidate_run))
            case MinimalPairs() | TermSwaps():
                return evidence._replace(bias=await self._probe(verdict, rule, evidence.candidate_run))
        return evidence

    async def _probe(self, verdict: VerdictRow, rule: Rule, run: str) -> BiasNumbers:
        eval_ = await offload(self._evaluations.get, rule.eval)
        planned = (await self._create(eval_, verdict.candidate, "", validate_only=True)).run
        rows = Rows(planned.dataset_version, planned.split, _rows(planned))
        if isinstance(rule.demand, MinimalPairs):
            return await self._probes.pairs(verdict.name, rule.id, rule.demand, planned, rows)
        assert isinstance(rule.demand, TermSwaps)
        named = prompt_named_by(planned, eval_)
        plan = Plan.of(planned, eval_, await offload(self._sources.prompts.get, named) if named else None)
        before = await offload(self._before, run, rule.grader)
        known = await offload(calibrated, _judged_by([rule], eval_), self._credentials)
        return await self._probes.swaps(verdict.name, rule.id, rule.demand, rule.grader, plan, rows, before, known)

    def _compared(self, evidence: Evidence, grader: str, level: float) -> Comparison:
        both = self._comparisons.both(evidence.baseline_run, evidence.candidate_run)
        return compare_strictly(grader, grader_named(both.eval, grader), both.baseline, both.candidate, level)

    def _floored(self, rule: Rule, evidence: Evidence) -> GraderResult | None:
        if evidence.result is None:
            return None
        is_binary = grader_named(self._evaluations.get(rule.eval), evidence.result.grader)
        with self._database.reading() as session:
            lines = item_store.graded_lines(session, evidence.candidate_run)
        return result_strictly(is_binary, lines, evidence.result)

    def _cost(self, run: str) -> Cost:
        with self._database.reading() as session:
            return Cost.of(*item_store.costs(session, run), unanswered=item_store.errored(session, run))

    def _gap(self, demand: GroupGap, grader: str, run: str) -> BiasNumbers:
        with self._database.reading() as session:
            return gap_of(demand, grader, item_store.graded_items(session, run))

    def _before(self, run: str, grader: str) -> Mapping[int, bool | None]:
        """Whether the first answer to each row passes, by line."""
        passed: dict[int, bool | None] = {}
        with self._database.reading() as session:
            for line in item_store.graded_lines(session, run):
                passed.setdefault(line.line, passed_by(grader, line.grades))
        return passed


def runs_of(rules: Sequence[Rule]) -> list[RunKey]:
    """The runs that rules need, each once."""
    keys = [RunKey(rule.eval, CANDIDATE) for rule in rules if rule.needs_run]
    keys += [RunKey(rule.eval, BASELINE) for rule in rules if rule.demand.needs_baseline]
    return list(dict.fromkeys(keys))


def _judged_by(rules: Sequence[Rule], eval_: Eval) -> list[Spec]:
    """The graders whose grades the rules are judged by."""
    counted = [rule.grader for rule in rules if not isinstance(rule.demand, MinimalPairs | Bound)]
    return [spec for spec in eval_.graders if any(name in ("", OVERALL, spec["name"]) for name in counted)]


def _rows(run: Run) -> int:
    return run.total // run.samples


def _check_baseline(candidate: str, baseline: str) -> None:
    if not baseline:
        message = f"{candidate} has no base to compare with; name a baseline."
        raise WrongState("GATE_BASELINE_MISSING", message, candidate=candidate)
    if baseline == candidate:
        message = f"{candidate} cannot be better than itself; name another baseline."
        raise refused("GATE_BASELINE_SAME", "baseline", message, baseline=baseline)


def _check_run(view: RunView) -> None:
    run = view.run
    if run.state in UNFINISHED or run.state is State.COMPLETED:
        return
    failure = run.failure or Failure(
        reason="GATE_RUN_CANCELLED", message=f"{run.name} was cancelled; a verdict needs all its runs.", retryable=True
    )
    raise Halted(failure)


def _check_identities(verdict: VerdictRow, views: Mapping[RunKey, RunView]) -> None:
    """A verdict is about one version alone, so that version must have answered every row, and not as the baseline."""
    for key, view in views.items():
        answered = {identity.model_version for identity in view.identities}
        wrong = answered - {verdict.candidate} if key.role == CANDIDATE else answered & {verdict.candidate}
        if wrong:
            what = "other than the candidate" if key.role == CANDIDATE else "that is the candidate itself"
            message = f"In {view.run.name} a model {what} answered: {', '.join(sorted(wrong))}."
            raise Halted(Failure(reason="GATE_MODEL_MISMATCH", message=message))
