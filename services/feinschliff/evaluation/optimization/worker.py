"""Works on one search for a better prompt; what was measured is stored, so a killed search goes on behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

from feinschliff.evaluation.clients import Datasets, Models, Row
from feinschliff.evaluation.drafts import Once, RunDraft
from feinschliff.evaluation.evaluations import Evaluations, Listing
from feinschliff.evaluation.life import UNFINISHED as RUN_UNFINISHED
from feinschliff.evaluation.life import State
from feinschliff.evaluation.optimization import store as optimization_store
from feinschliff.evaluation.optimization.optimizations import Optimizations, held_out_split
from feinschliff.evaluation.optimization.search import (
    Ask,
    HillClimb,
    Miss,
    Pool,
    Tried,
    Turns,
    best_of,
    can_be_shown,
    with_instructions,
)
from feinschliff.evaluation.optimization.store import Optimization
from feinschliff.evaluation.prompts.book import PromptBook, PromptDraft
from feinschliff.evaluation.prompts.prompt import Prompt, item_of
from feinschliff.evaluation.resources import DatasetFacts, Eval, OutputItem, Split, Usage
from feinschliff.evaluation.runs.plan import unlike
from feinschliff.evaluation.runs.runs import Runs, RunView
from feinschliff.evaluation.work.keeping import Halted
from feinschliff.formats.report import Failure
from feinschliff.graders.template import Unresolved
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import AlreadyExists, Conflict, WrongState
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake

SEARCH_ROWS_MAX = 200
POOL_ROWS_MAX = 200
MISSES_READ = 50
LOOK_SECONDS = 0.5
PROPOSAL_TOKENS_MAX = 512


class Task(NamedTuple):
    """A search with what it needs to know."""

    search: HillClimb
    eval_: Eval
    dataset: DatasetFacts
    split: Split
    rows: int
    pool: Sequence[Pool]


class Optimizer:
    def __init__(
        self,
        database: Database,
        optimizations: Optimizations,
        evaluations: Evaluations,
        runs: Runs,
        prompts: PromptBook,
        datasets: Datasets,
        models: Models,
        clock: Clock,
        wake: Wake,
        owner: str,
    ) -> None:
        self._database = database
        self._optimizations = optimizations
        self._evaluations = evaluations
        self._runs = runs
        self._prompts = prompts
        self._datasets = datasets
        self._models = models
        self._clock = clock
        self._wake = wake
        self._owner = owner

    async def work(self, name: str) -> None:
        """Tries prompts until enough are tried or one passes everything, then judges the best on rows held back.

        Raises:
            Halted: the start prompt cannot be measured, or a run on the rows held back fails.
        """
        seen = (await offload(self._optimizations.get, name)).optimization
        task = await self._task(seen)
        try:
            if seen.state == "queued":
                seen = await offload(self._save, seen, state="running")
            while seen.measured < seen.candidates_max and not _is_perfect(seen):
                seen = await self._step(seen, task)
            await self._judge(seen, task)
        except Conflict:  # it was stopped, or another process took it over, which needs the runs
            await self._stop_runs(name)

    async def _task(self, seen: Optimization) -> Task:
        eval_ = await offload(self._evaluations.get, seen.eval)
        dataset = await self._datasets.facts(eval_.dataset_version)
        split = held_out_split(eval_, dataset)
        start = await offload(self._optimizations.start_of, eval_, seen.start_prompt)
        train = dataset.rows_by_split["train"]
        rows = min(SEARCH_ROWS_MAX, train if not seen.examples_max else max(1, train // 2))
        read = self._datasets.read(dataset.name, "train", start=rows, limit=POOL_ROWS_MAX)
        pool: list[Pool] = []
        if seen.examples_max:
            async with aclosing(read):
                pool = [one async for row in read if (one := _pool(start, row)) is not None]
        return Task(HillClimb(start, seen.examples_max, seen.seed), eval_, dataset, split, rows, pool)

    async def _step(self, seen: Optimization, task: Task) -> Optimization:
        """Measures one prompt, chosen first and stored before it is asked with."""
        if seen.measured == len(seen.candidates):
            seen = await self._choose(seen, task)
        number, candidate = len(seen.candidates), seen.candidates[-1]
        run_id = f"{seen.name.rsplit('/', 1)[-1]}-{number}"[-60:].lstrip("-._")
        run = await self._measured(seen, task, run_id, candidate["messages"], "train", task.rows)
        if run.run.state is not State.COMPLETED and number == 1:
            raise Halted(_failure_of(run))
        mean = run.results[-1].mean if run.run.state is State.COMPLETED and run.results else None
        measured = {**candidate, "run": run.run.name, "mean": mean}
        candidates = [*seen.candidates[:-1], measured]
        changes: dict[str, Any] = {"candidates": candidates}
        if best_of(_tried(candidates)) == number - 1:
            changes["best_prompt"] = await offload(self._keep, seen, number, candidate["messages"])
        return await offload(self._save, seen, **changes)

    async def _choose(self, seen: Optimization, task: Task) -> Optimization:
        tried = _tried(seen.candidates)
        wish = task.search.next(tried, await offload(self._misses, seen, tried), task.pool)
        usage = seen.proposer_usage
        if isinstance(wish, Ask):
            sampling = {"temperature": 0.8, "max_tokens": PROPOSAL_TOKENS_MAX, "seed": seen.seed + len(tried)}
            model = seen.proposer_model or seen.model
            answer = await self._models.ask(seen.project, model, wish.messages, sampling)
            usage = Usage(*(a + b for a, b in zip(usage, answer.usage, strict=True)))
            messages = with_instructions(wish.base, answer.message.content or "")
        else:
            messages = list(wish.messages)
        candidates = [*seen.candidates, {"messages": messages}]
        return await offload(self._save, seen, candidates=candidates, proposer_usage=usage)

    async def _judge(self, seen: Optimization, task: Task) -> None:
        best = best_of(_tried(seen.candidates))
        if best is None:
            raise Halted(Failure(reason="OPTIMIZATION_UNMEASURED", message="No prompt could be measured."))
        last, held_out = seen.name.rsplit("/", 1)[-1][-50:].lstrip("-._"), []
        for label, number in (("start", 0), ("best", best)):
            messages = seen.candidates[number]["messages"]
            run = await self._measured(seen, task, f"{last}-{label}", messages, task.split, 0)
            if run.run.state is not State.COMPLETED:
                raise Halted(_failure_of(run))
            held_out.append(run.run.name)
        done = {"state": "succeeded", "held_out": held_out, "finished": self._clock.now()}
        await offload(self._save, seen, **done)
        self._wake.notify()

    async def _measured(
        self, seen: Optimization, task: Task, run_id: str, messages: Turns, split: Split, limit: int
    ) -> RunView:
        """A run of this prompt, made once and awaited; raises Conflict where the search was stopped meanwhile."""
        draft = RunDraft(
            parent=seen.eval,
            run_id=run_id,
            display_name="",
            model=seen.model,
            dataset_version=task.dataset.name,
            sampling={},
            prompt={"messages": messages},
            split=split,
            limit=limit,
            concurrency=0,
            answer_path="",
            labels={"prompt_optimization": seen.name.rsplit("/", 1)[-1]},
            annotations={},
        )
        try:
            await offload(self._runs.create, draft, task.dataset, Once("", ""))
        except AlreadyExists:  # this search made it before it was taken up again, or somebody took the name
            await offload(self._check_own, draft, task)
        while True:
            turn = self._wake.turn
            view = await offload(self._runs.get, f"{seen.eval}/runs/{run_id}")
            if view.run.state not in RUN_UNFINISHED:
                return view
            if (await offload(self._optimizations.get, seen.name)).optimization.version != seen.version:
                raise Conflict("ROW_CHANGED", "The search was stopped.", name=seen.name)
            await self._wake.wait(turn, LOOK_SECONDS)

    def _check_own(self, draft: RunDraft, task: Task) -> None:
        """Raises Halted where the run of this name is no run of this search."""
        made = self._runs.get(f"{draft.parent}/runs/{draft.run_id}").run
        planned = self._runs.create(draft, task.dataset, Once("", ""), validate_only=True).run
        foreign = [*unlike(made, planned), *(["labels"] if made.labels != planned.labels else [])]
        if foreign:
            message = f"{made.name} is no run of this search: its {', '.join(foreign)} differ."
            raise Halted(Failure(reason="OPTIMIZATION_RUN_FOREIGN", message=message))

    def _misses(self, seen: Optimization, tried: Sequence[Tried]) -> list[Miss]:
        best = best_of(tried)
        if best is None:
            return []
        listing = Listing(str(seen.candidates[best]["run"]), MISSES_READ, "", "passed = false AND errored = false", "")
        return [_miss(item) for item in self._runs.list_items(listing)[0]]

    def _keep(self, seen: Optimization, number: int, messages: Turns) -> str:
        """Stores a prompt that is the best so far; once, however often the search is taken up."""
        last = seen.name.rsplit("/", 1)[-1]
        draft = PromptDraft(seen.project, last, messages, [], {}, f"Found by {seen.name}, as number {number}.", {}, {})
        return self._prompts.create(draft, Once(f"{last[-48:]}-best-{number}", f"{number}")).name

    def _save(self, seen: Optimization, **changes: Any) -> Optimization:
        with self._database.transaction() as session:
            saved = optimization_store.save(session, seen, **changes)
        self._wake.notify()
        return saved

    def give_up(self, name: str, failure: Failure) -> None:
        with self._database.transaction() as session:
            seen = optimization_store.lock(session, name)
            if seen is not None and seen.state in optimization_store.UNFINISHED and seen.lease_owner == self._owner:
                optimization_store.save(session, seen, state="failed", failure=failure, finished=self._clock.now())
        self._wake.notify()

    async def _stop_runs(self, name: str) -> None:
        """Where the search was stopped, so is the run that it waits for."""
        seen = (await offload(self._optimizations.get, name)).optimization
        if seen.state != "cancelled":
            return
        label = f'labels.prompt_optimization = "{name.rsplit("/", 1)[-1]}"'
        views, _, _ = await offload(self._runs.list, Listing(seen.eval, 1000, "", label, ""))
        for view in views:
            if view.run.state in RUN_UNFINISHED:
                with suppress(WrongState):  # it ended by itself
                    await offload(self._runs.cancel, view.run.name)


def _tried(candidates: Sequence[Mapping[str, Any]]) -> list[Tried]:
    return [Tried(one["messages"], one["mean"]) for one in candidates if "mean" in one]


def _is_perfect(seen: Optimization) -> bool:
    return any(one.get("mean") == 1.0 for one in seen.candidates)


def _pool(start: Turns, row: Row) -> Pool | None:
    """The row as an example in the form of the start prompt's last turn; None where it cannot be one."""
    item = item_of({"line": row.line, **row.data})
    try:
        question = Prompt.from_spec({"messages": [start[-1]]}, field="prompt").render(item)[0].content or ""
    except Unresolved:
        return None
    one = Pool(item, question, str(item.get("completion", "")))
    return one if can_be_shown(one) else None


def _miss(item: OutputItem) -> Miss:
    question = item.prompt[-1].content or "" if item.prompt else ""
    return Miss(question, item.sample, "; ".join(grade.why for grade in item.grades if not grade.passed))


def _failure_of(view: RunView) -> Failure:
    return view.run.failure or Failure(reason="RUN_STOPPED", message=f"{view.run.name} was stopped.")
