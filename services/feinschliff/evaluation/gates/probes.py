"""What tests of bias ask beyond a run of the eval: likelihoods of pairs, and rows again with terms swapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from feinschliff.evaluation.clients import Answer, Models, Row
from feinschliff.evaluation.gates.fairness import (
    BiasNumbers,
    PairScores,
    SwapGrades,
    group_gap,
    minimal_pairs,
    swap_all,
    swapper,
    term_swaps,
)
from feinschliff.evaluation.gates.rules import GroupGap, MinimalPairs, TermSwaps
from feinschliff.evaluation.grading.grading import Grading
from feinschliff.evaluation.grading.measures import Measures
from feinschliff.evaluation.judges.trust import Calibrated, check_judgements
from feinschliff.evaluation.resources import OVERALL, GradedLine, GradeGiven, Run, passes
from feinschliff.evaluation.runs.plan import Plan
from feinschliff.evaluation.work import measured_store
from feinschliff.evaluation.work.patience import Halt
from feinschliff.evaluation.work.row_work import Rows, RowWork
from feinschliff.formats.report import Failure
from feinschliff.graders import template
from feinschliff.graders.grade import Item, Sample
from feinschliff.graders.protocol import Grader
from feinschliff.graders.template import Path, Unresolved
from feinschliff.kit.db import Database
from feinschliff.kit.failpoints import fail
from feinschliff.kit.threads import offload


class Probes:
    """Each row is stored as it is measured, under (verdict, rule, position), so a killed one goes on."""

    def __init__(self, database: Database, work: RowWork, models: Models, measures: Measures, grading: Grading) -> None:
        self._grading = grading
        self._database = database
        self._work = work
        self._models = models
        self._measures = measures

    async def pairs(self, verdict: str, rule_id: str, demand: MinimalPairs, planned: Run, rows: Rows) -> BiasNumbers:
        """Scores both sentences of every row, by the model of the run. Raises Halted."""
        more, less = (template.parse_path(path, field="path") for path in (demand.more_path, demand.less_path))
        score = partial(self._measures.scored, planned.project, planned.model, "")
        group = template.parse_path(demand.group_path, field="path") if demand.group_path else None

        async def do(position: int, row: Row) -> None:
            item = {"line": row.line, **row.data}
            data: Mapping[str, object]
            try:
                texts = [_sentence(path, item) for path in (more, less)]
                name = template.text_of(group.value({"item": item})) if group else ""
            except Unresolved as error:
                data = {"why": str(error)}
            else:
                first, second = [await self._work.ask(partial(score, text)) for text in texts]
                if isinstance(first, Failure):
                    data = {"why": first.message}
                elif isinstance(second, Failure):
                    data = {"why": second.message}
                else:
                    for one in (first, second):
                        _check_model(one.model_version, planned)
                    data = {"more": first.likelihood.logprob, "less": second.likelihood.logprob, "group": name}
            await offload(self._put, verdict, rule_id, position, data)

        await self._work.each(rows, await offload(self._done, verdict, rule_id), do)
        stored = await offload(self._stored, verdict, rule_id)
        scored = [PairScores(d["more"], d["less"], d["group"]) if "more" in d else None for d in stored]
        return minimal_pairs(scored, confidence=demand.level)

    async def swaps(
        self,
        verdict: str,
        rule_id: str,
        demand: TermSwaps,
        grader: str,
        plan: Plan,
        rows: Rows,
        before: Mapping[int, bool | None],
        judges: Calibrated,
    ) -> BiasNumbers:
        """Asks every row in which a term stands again, with the terms swapped in all of it. Raises Halted.

        Args:
            plan: the run whose rows are asked again.
            before: whether the answer to the row as it is passes, by line.
            judges: who they were as people checked them.
        """
        graders = [one for one in plan.graders if grader in ("", OVERALL, one.name)]
        run, sampling = plan.run, plan.sampling_for(0)
        swap = swapper(demand.pairs)

        async def do(position: int, row: Row) -> None:
            swapped, terms = swap_all(dict(row.data), swap)
            data: Mapping[str, object] = {"terms": ""}
            if terms and isinstance(swapped, Mapping):
                item = plan.item(row.line, swapped)
                try:
                    messages = plan.question(row.line, item)
                except Unresolved as error:
                    data = {"terms": terms, "why": str(error)}
                else:
                    ask = partial(self._models.ask, run.project, run.model, messages, sampling, plan.tools)
                    answer = await self._work.ask(ask)
                    data = await self._swapped(terms, graders, item, answer, run, before.get(row.line), judges)
            await offload(self._put, verdict, rule_id, position, data)

        await self._work.each(rows, await offload(self._done, verdict, rule_id), do)
        stored = await offload(self._stored, verdict, rule_id)
        grades = [SwapGrades(d["terms"], d.get("before"), d.get("after")) for d in stored if d["terms"]]
        numbers = term_swaps(grades, confidence=demand.level)
        return numbers._replace(left_out=len(stored) - numbers.n)

    async def _swapped(
        self,
        terms: str,
        graders: Sequence[Grader],
        item: Item,
        answer: Answer | Failure,
        run: Run,
        before: bool | None,
        judges: Calibrated,
    ) -> Mapping[str, object]:
        if isinstance(answer, Failure):
            return {"terms": terms, "why": answer.message}
        _check_model(answer.identity.model_version, run)
        sample = Sample(answer.message.content or "", answer.message.tool_calls or ())
        waiting = self._work.waiting()
        asked = await self._grading.asked(run.project, graders, item, sample, model=run.model, waiting=waiting)
        grades = await offload(self._grading.all, graders, item, sample, asked)
        why = check_judgements(judges, [(grade.grader, one) for grade in grades for one in grade.judgements])
        if why:
            raise Halt(Failure(reason="GATE_JUDGE_MISMATCH", message=why))
        return {"terms": terms, "before": before, "after": passes(grades), "answer": sample.output_text}

    def _done(self, verdict: str, rule_id: str) -> Set[int]:
        with self._database.reading() as session:
            return measured_store.measured(session, verdict, rule_id).keys()

    def _stored(self, verdict: str, rule_id: str) -> list[dict[str, Any]]:
        with self._database.reading() as session:
            return list(measured_store.measured(session, verdict, rule_id).values())

    def _put(self, verdict: str, rule_id: str, position: int, data: Mapping[str, object]) -> None:
        with self._database.transaction() as session:
            measured_store.put_measured(session, verdict, rule_id, position, data)
        fail("evaluation.after_probe")


def gap_of(demand: GroupGap, grader: str, items: Iterable[tuple[Item, GradedLine]]) -> BiasNumbers:
    """From the items of a run alone: the group is in the row, the value in its grades."""
    path = template.parse_path(demand.group_path, field="group_path")
    rows = [(_group(path, item), value_of(grader, line.grades)) for item, line in items]
    return group_gap(rows, rows_min=demand.group_rows_min, confidence=demand.level)


def passed_by(grader: str, grades: Sequence[GradeGiven]) -> bool | None:
    """Whether an answer passes by the grader that counts; None where it cannot be graded."""
    if grader in ("", OVERALL):
        return passes(grades)
    return next((grade.passed for grade in grades if grade.grader == grader and grade.value is not None), None)


def value_of(grader: str, grades: Sequence[GradeGiven]) -> float | None:
    if grader in ("", OVERALL):
        passed = passes(grades)
        return None if passed is None else float(passed)
    return next((grade.value for grade in grades if grade.grader == grader), None)


def _check_model(answered: str, run: Run) -> None:
    """A probe is about the candidate alone. Raises Halt."""
    if answered != run.model:
        message = f"{answered or 'An unnamed model'} answered a probe of {run.model}."
        raise Halt(Failure(reason="GATE_MODEL_MISMATCH", message=message))


def _sentence(path: Path, item: Item) -> str:
    text = template.text_of(path.value({"item": item}))
    if not text.strip():
        raise Unresolved(f"{path} is empty")
    return text


def _group(path: Path, item: Item) -> str | None:
    try:
        return template.text_of(path.value({"item": item}))
    except Unresolved:
        return None
