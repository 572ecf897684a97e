"""Works on one run: reads rows, asks the model, grades, and stores each item at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from feinschliff.evaluation import item_store
from feinschliff.evaluation.clients import Answer, Datasets, Models, Row
from feinschliff.evaluation.failures import Fate, failure_of, fate_of, patience_with, pause_seconds
from feinschliff.evaluation.grading import Grading
from feinschliff.evaluation.prompts import Prompt, item_of
from feinschliff.evaluation.resources import Eval, GradeGiven, OutputItem, Run, Sampling
from feinschliff.formats.records import Message
from feinschliff.formats.report import Failure
from feinschliff.graders import template
from feinschliff.graders.grade import Item, Sample
from feinschliff.graders.grader import parse_all
from feinschliff.graders.protocol import Grader
from feinschliff.graders.template import Path, Unresolved
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Refusal
from feinschliff.kit.failpoints import fail
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import offload

DEFAULT_SAMPLING: Sampling = {"temperature": 0.0, "max_tokens": 64}


class Limits(NamedTuple):
    """How hard a run tries."""

    concurrency: int
    attempts: int
    patience_seconds: float


@dataclass(frozen=True)
class Plan:
    """A run with everything about it parsed; `answer` is read from the row where no model is asked."""

    run: Run
    prompt: Prompt
    graders: Sequence[Grader]
    sampling: Sampling
    answer: Path

    @classmethod
    def of(cls, run: Run, eval_: Eval) -> Plan:
        return cls(
            run=run,
            prompt=Prompt.from_spec(run.prompt or eval_.prompt, field="prompt"),
            graders=parse_all(eval_.graders, path="graders"),
            sampling={**DEFAULT_SAMPLING, **eval_.sampling, **run.sampling},
            answer=template.parse_path(run.answer_path, field="answer_path"),
        )


class Halt(Exception):
    """The run cannot go on; the items that are stored stay."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Patience:
    """Counts from the first failure in a row, so that a long calm stretch uses none of it."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        self._failing_since = None

    def failed(self, refusal: Refusal) -> None:
        """Raises Halt once failures in a row have lasted too long."""
        now = self._clock.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since >= patience_with(refusal, self._seconds):
            raise Halt(failure_of(refusal).model_copy(update={"retryable": True}))


class Worker:
    """Stateless between runs; what is done is known from the stored items alone, so a killed run just goes on."""

    def __init__(
        self,
        database: Database,
        datasets: Datasets,
        models: Models,
        grading: Grading,
        metrics: Metrics,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._database = database
        self._datasets = datasets
        self._models = models
        self._grading = grading
        self._clock = clock
        self._limits = limits
        self._in_flight = metrics.gauge("feinschliff_evaluation_items_in_flight")
        self._items = metrics.counter("feinschliff_evaluation_items_total")
        self._sampling_seconds = metrics.histogram("feinschliff_evaluation_sampling_seconds")
        self._tokens = metrics.counter("feinschliff_evaluation_sampled_tokens_total")

    async def execute(self, run: Run, eval_: Eval) -> Failure | None:
        """Answers and grades every row that is not stored yet; says why the run cannot go on, or None once all are."""
        plan = Plan.of(run, eval_)
        done = await offload(self._done, run.name)
        width = run.concurrency or self._limits.concurrency
        queue: asyncio.Queue[tuple[int, Row] | None] = asyncio.Queue(width)
        patience = Patience(self._clock, self._limits.patience_seconds)
        failure = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._feed(plan, done, queue, width))
                for _ in range(width):
                    group.create_task(self._consume(plan, queue, patience))
        except* Halt as halts:
            failure = next(halt.failure for halt in halts.exceptions if isinstance(halt, Halt))
        return failure

    async def _feed(self, plan: Plan, done: Set[int], queue: asyncio.Queue[tuple[int, Row] | None], width: int) -> None:
        """Puts every row whose position is not done; a broken stream is taken up where it broke."""
        position, total = 0, plan.run.total
        patience, attempt = Patience(self._clock, self._limits.patience_seconds), 0
        while position < total:
            rows = self._datasets.read(plan.run.dataset_version, plan.run.split, start=position, limit=total - position)
            try:
                async with aclosing(rows):
                    async for row in rows:
                        position += 1
                        patience.succeeded()
                        attempt = 0
                        if position not in done:
                            await queue.put((position, row))
            except Refusal as refusal:
                if fate_of(refusal) is Fate.GIVE_UP:
                    raise Halt(failure_of(refusal)) from refusal
                patience.failed(refusal)
                await asyncio.sleep(pause_seconds(refusal, attempt))
                attempt += 1
            else:
                if position < total:
                    raise Halt(_rows_missing(plan, position))
        for _ in range(width):
            await queue.put(None)

    async def _consume(self, plan: Plan, queue: asyncio.Queue[tuple[int, Row] | None], patience: Patience) -> None:
        while (work := await queue.get()) is not None:
            with self._in_flight.track_inprogress():
                await self._do(plan, *work, patience)

    async def _do(self, plan: Plan, position: int, row: Row, patience: Patience) -> None:
        await offload(fail, "evaluation.before_item")
        item = item_of({"line": row.line, **row.data})
        prompt: Sequence[Message] = ()
        answer: Answer | Message | Failure
        try:
            if plan.run.model:
                prompt = plan.prompt.render(item)
                answer = await self._ask(plan, prompt, patience)
            else:
                answer = Message(role="assistant", content=template.text_of(plan.answer.value({"item": item})))
        except Unresolved as error:
            reason = "PROMPT_UNRESOLVED" if plan.run.model else "ANSWER_UNRESOLVED"
            answer = Failure(reason=reason, message=str(error))
        asked = await self._ask_graders(plan, item, answer, patience)
        await offload(self._grade_and_store, plan, position, row.line, item, prompt, answer, asked)

    async def _ask_graders(
        self, plan: Plan, item: Item, answer: Answer | Message | Failure, patience: Patience
    ) -> Mapping[str, GradeGiven]:
        """The grades that need a model or a server; an outage of inference is waited out as for answers."""
        if isinstance(answer, Failure):
            return {}
        sample = _sample(answer)
        return await self._grading.asked(plan.graders, item, sample, model=plan.run.model, waiting=patience)

    async def _ask(self, plan: Plan, prompt: Sequence[Message], patience: Patience) -> Answer | Failure:
        attempt = 0
        while True:
            try:
                with self._sampling_seconds.time():
                    answer = await self._models.ask(plan.run.model, prompt, plan.sampling)
            except Refusal as refusal:
                fate = fate_of(refusal)
                attempt += 1
                if fate is Fate.GIVE_UP or (fate is Fate.RETRY and attempt >= self._limits.attempts):
                    return failure_of(refusal)
                if fate is Fate.WAIT:
                    patience.failed(refusal)
                await asyncio.sleep(pause_seconds(refusal, attempt - 1))
            else:
                patience.succeeded()
                self._tokens.inc(answer.usage.completion_tokens)
                return answer

    def _done(self, run: str) -> set[int]:
        with self._database.reading() as session:
            return item_store.done_positions(session, run)

    def _grade_and_store(
        self,
        plan: Plan,
        position: int,
        line: int,
        item: Item,
        prompt: Sequence[Message],
        answer: Answer | Message | Failure,
        asked: Mapping[str, GradeGiven],
    ) -> None:
        made = OutputItem(plan.run.name, position, line, item, self._clock.now(), prompt=prompt)
        made = self._with_answer(plan, made, answer, asked)
        fail("evaluation.after_item")
        with self._database.transaction() as session:
            is_new = item_store.insert_item(session, made)
        if is_new:
            self._items.labels(_outcome(made)).inc()

    def _with_answer(
        self, plan: Plan, item: OutputItem, answer: Answer | Message | Failure, asked: Mapping[str, GradeGiven]
    ) -> OutputItem:
        if isinstance(answer, Failure):
            return item.but(error=answer)
        message = answer if isinstance(answer, Message) else answer.message
        grades = self._grading.all(plan.graders, item.item, _sample(answer), asked)
        graded = item.but(message=message, grades=grades)
        if isinstance(answer, Message):
            return graded
        return graded.but(
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            latency_seconds=answer.latency_seconds,
            identity=answer.identity,
        )


def _sample(answer: Answer | Message) -> Sample:
    message = answer if isinstance(answer, Message) else answer.message
    return Sample(message.content or "", message.tool_calls or ())


def _outcome(item: OutputItem) -> str:
    if item.error is not None:
        return "errored"
    return {True: "passed", False: "failed", None: "ungraded"}[item.passed]


def _rows_missing(plan: Plan, position: int) -> Failure:
    return Failure(
        reason="DATASET_ROWS_MISSING",
        message=f"{plan.run.dataset_version} gave {position} rows; {plan.run.total} were announced.",
    )
