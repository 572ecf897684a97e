"""Works on one run: reads rows, asks the model, grades, and stores, each in a stage of its own.

The stages overlap: whoever asks the model takes the next row at once, and items are stored many to a transaction, so a
run lasts about as long as the model takes to answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from feinschliff.evaluation.clients import Answer, Datasets, Models, Row
from feinschliff.evaluation.grading.grading import Grading
from feinschliff.evaluation.prompts.store import StoredPrompt
from feinschliff.evaluation.resources import Eval, GradeGiven, OutputItem, Run
from feinschliff.evaluation.runs import item_store, row_store
from feinschliff.evaluation.runs.equal_rows import row_key
from feinschliff.evaluation.runs.plan import Plan
from feinschliff.evaluation.work.failures import Fate, failure_of, fate_of, pause_seconds
from feinschliff.evaluation.work.limits import Limits
from feinschliff.evaluation.work.patience import Halt, Patience
from feinschliff.formats.records import Message
from feinschliff.formats.report import Failure
from feinschliff.graders.grade import Item, Sample
from feinschliff.graders.protocol import is_asking
from feinschliff.graders.template import Unresolved
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Refusal
from feinschliff.kit.failpoints import fail, is_armed
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import offload

T = TypeVar("T")
OWN_ROWS_AT_ONCE = 500
STORED_AT_ONCE = 256
WAITING_PER_PLACE = 8  # answers per grading place that wait for it before nothing more is asked


class Place(NamedTuple):
    """One answer to be had: of which row, and which of several."""

    position: int
    row: Row
    sample_index: int


class Answered(NamedTuple):
    """A row with what came of it."""

    place: Place
    item: Item
    prompt: Sequence[Message]
    answer: Answer | Message | Failure


class Asked(NamedTuple):
    """An answer with the grades of those that ask, by name."""

    answered: Answered
    grades: Mapping[str, GradeGiven]


@dataclass
class Line:
    """What lies between the stages of one run."""

    width: int
    patience: Patience
    places: asyncio.Queue[Place | None] = field(init=False)
    answered: asyncio.Queue[Answered | None] = field(init=False)
    graded: asyncio.Queue[OutputItem | None] = field(init=False)

    def __post_init__(self) -> None:
        self.places = asyncio.Queue(2 * self.width)
        self.answered = asyncio.Queue(WAITING_PER_PLACE * self.width)
        self.graded = asyncio.Queue(2 * STORED_AT_ONCE)


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

    async def execute(self, run: Run, eval_: Eval, stored: StoredPrompt | None = None) -> Failure | None:
        """Answers and grades every row that is not stored yet; says why the run cannot go on, or None once all are."""
        plan = Plan.of(run, eval_, stored)
        done = await offload(self._done, run.name)
        width = run.concurrency or self._limits.concurrency
        line = Line(width, Patience(self._clock, self._limits.patience_seconds))
        failure = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._feed(plan, done, line))
                asking = [group.create_task(self._answer_all(plan, line)) for _ in range(width)]
                group.create_task(_when_over(asking, line.answered, width))
                grading = [group.create_task(self._grade_all(plan, line)) for _ in range(width)]
                group.create_task(_when_over(grading, line.graded, 1))
                group.create_task(self._store_all(line))
        except* Halt as halts:
            failure = next(halt.failure for halt in halts.exceptions if isinstance(halt, Halt))
            await self._keep_rest(plan, line)
        return failure

    async def _keep_rest(self, plan: Plan, line: Line) -> None:
        """Stores what had its answer when the run could not go on, save where a grader cannot be asked by now."""
        waiting, items = _left_in(line.answered), _left_in(line.graded)
        share = [one for one in await asyncio.gather(*(self._reached(plan, one, line) for one in waiting)) if one]
        items += await offload(self._graded, plan, share)
        if items:
            await offload(self._store, items)

    async def _reached(self, plan: Plan, answered: Answered, line: Line) -> Asked | None:
        try:
            return await self._asked(plan, answered, line)
        except Halt:
            return None

    async def _feed(self, plan: Plan, done: Set[int], line: Line) -> None:
        """Puts every place that is not done; a broken stream is taken up where it broke."""
        read, samples = 0, plan.run.samples
        total = plan.run.total // samples
        patience, attempt = Patience(self._clock, self._limits.patience_seconds), 0
        while read < total:
            rows = self._rows(plan.run, read, total - read)
            try:
                async with aclosing(rows):
                    async for row in rows:
                        patience.succeeded()
                        attempt = 0
                        for k in range(samples):
                            position = read * samples + k + 1
                            if position not in done:
                                await line.places.put(Place(position, row, k))
                        read += 1
            except Refusal as refusal:
                if fate_of(refusal) is Fate.GIVE_UP:
                    raise Halt(failure_of(refusal)) from refusal
                patience.failed(refusal)
                await asyncio.sleep(pause_seconds(refusal, attempt))
                attempt += 1
            else:
                if read < total:
                    raise Halt(_rows_missing(plan, read))
        for _ in range(line.width):
            await line.places.put(None)

    async def _rows(self, run: Run, start: int, limit: int) -> AsyncGenerator[Row]:
        if not run.has_own_rows:
            async with aclosing(self._datasets.read(run.dataset_version, run.split, start=start, limit=limit)) as rows:
                async for row in rows:
                    yield row
            return
        end = start + limit
        while start < end:
            page = await offload(self._own_rows, run.name, start, min(OWN_ROWS_AT_ONCE, end - start))
            for start, data in page:
                yield Row(start, data)
            if not page:
                return

    async def _answer_all(self, plan: Plan, line: Line) -> None:
        while (place := await line.places.get()) is not None:
            with self._in_flight.track_inprogress():
                answered = await self._answered(plan, place, line.patience)
            await line.answered.put(answered)

    async def _answered(self, plan: Plan, place: Place, patience: Patience) -> Answered:
        if is_armed("evaluation.before_item"):
            await offload(fail, "evaluation.before_item")
        item = plan.item(place.row.line, place.row.data)
        fault = await offload(plan.schema.fault, place.row.data) if plan.schema is not None else ""
        if fault:
            return Answered(place, item, (), Failure(reason="ROW_INVALID", message=fault))
        prompt: Sequence[Message] = ()
        answer: Answer | Message | Failure
        try:
            if plan.run.model:
                prompt = plan.question(place.row.line, item)
                answer = await self._ask(plan, prompt, place.sample_index, patience)
            else:
                answer = plan.answer_in(item)
        except Unresolved as error:
            reason = "PROMPT_UNRESOLVED" if plan.run.model else "ANSWER_UNRESOLVED"
            answer = Failure(reason=reason, message=str(error))
        return Answered(place, item, prompt, answer)

    async def _ask(
        self, plan: Plan, prompt: Sequence[Message], sample_index: int, patience: Patience
    ) -> Answer | Failure:
        attempt, sampling = 0, plan.sampling_for(sample_index)
        while True:
            try:
                with self._sampling_seconds.time():
                    answer = await self._models.ask(plan.run.project, plan.run.model, prompt, sampling, plan.tools)
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

    async def _grade_all(self, plan: Plan, line: Line) -> None:
        """Takes its share of what waits in one go, since a hop to a thread costs as much as a grade.

        One at a time where a grader asks: that lasts longer, and no more is asked at once than the run may.
        """
        asks = any(map(is_asking, plan.graders))
        while (first := await line.answered.get()) is not None:
            share = [first]
            while not asks and len(share) <= line.answered.qsize() // line.width:
                another = line.answered.get_nowait()
                if another is None:  # the signal for one of the others, or for the next turn of this one
                    line.answered.put_nowait(None)
                    break
                share.append(another)
            asked = [await self._asked(plan, answered, line) for answered in share]
            for item in await offload(self._graded, plan, asked):
                await line.graded.put(item)

    async def _asked(self, plan: Plan, answered: Answered, line: Line) -> Asked:
        """With the grades that need a model or a server; an outage of inference is waited out as for answers."""
        if isinstance(answered.answer, Failure):
            return Asked(answered, {})
        run, sample = plan.run, _sample(_message(answered.answer))
        grades = await self._grading.asked(
            run.project, plan.graders, answered.item, sample, model=run.model, waiting=line.patience
        )
        return Asked(answered, grades)

    def _graded(self, plan: Plan, share: Sequence[Asked]) -> list[OutputItem]:
        return [self._item(plan, *asked) for asked in share]

    async def _store_all(self, line: Line) -> None:
        """Stores whatever is there by now in one transaction; more gathers meanwhile."""
        is_over = False
        while not is_over:
            items = [await line.graded.get()]
            while len(items) < STORED_AT_ONCE and not line.graded.empty():
                items.append(line.graded.get_nowait())
            is_over = items[-1] is None
            made = [item for item in items if item is not None]
            if made:
                await offload(self._store, made)

    def _store(self, items: Sequence[OutputItem]) -> None:
        for _ in items:
            fail("evaluation.after_item")
        with self._database.transaction() as session:
            new = item_store.insert_items(session, items)
        for item in new:
            self._items.labels(_outcome(item)).inc()

    def _done(self, run: str) -> set[int]:
        with self._database.reading() as session:
            return item_store.done_positions(session, run)

    def _own_rows(self, run: str, after: int, limit: int) -> list[tuple[int, Item]]:
        with self._database.reading() as session:
            return row_store.read_rows(session, run, after=after, limit=limit)

    def _item(self, plan: Plan, answered: Answered, asked: Mapping[str, GradeGiven]) -> OutputItem:
        place, answer = answered.place, answered.answer
        made = OutputItem(
            run=plan.run.name,
            position=place.position,
            line=place.row.line,
            item=answered.item,
            created=self._clock.now(),
            prompt=answered.prompt,
            sample_index=place.sample_index,
            row_key=row_key(answered.item),
        )
        if isinstance(answer, Failure):
            return made.but(error=answer)
        message = _message(answer)
        grades = self._grading.all(plan.graders, made.item, _sample(message), asked)
        graded = made.but(message=message, grades=grades)
        if isinstance(answer, Message):
            return graded
        return graded.but(
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            latency_seconds=answer.latency_seconds,
            identity=answer.identity,
        )


def _message(answer: Answer | Message) -> Message:
    return answer if isinstance(answer, Message) else answer.message


def _sample(message: Message) -> Sample:
    return Sample(message.content or "", message.tool_calls or ())


async def _when_over(
    stage: Sequence[asyncio.Task[None]],
    behind: asyncio.Queue[Answered | None] | asyncio.Queue[OutputItem | None],
    signals: int,
) -> None:
    """Tells the stage behind that nothing more comes, once for each of its places."""
    await asyncio.gather(*stage)
    for _ in range(signals):
        await behind.put(None)


def _left_in(queue: asyncio.Queue[T | None]) -> list[T]:
    left = [queue.get_nowait() for _ in range(queue.qsize())]
    return [one for one in left if one is not None]


def _outcome(item: OutputItem) -> str:
    if item.error is not None:
        return "errored"
    return {True: "passed", False: "failed", None: "ungraded"}[item.passed]


def _rows_missing(plan: Plan, rows: int) -> Failure:
    where, announced = plan.run.dataset_version or plan.run.name, plan.run.total // plan.run.samples
    return Failure(reason="DATASET_ROWS_MISSING", message=f"{where} gave {rows} rows; {announced} were announced.")
