"""The rules of searches for better prompts: started, stopped, followed."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from feinschliff.evaluation import store
from feinschliff.evaluation.drafts import MODEL_CHARACTERS_MAX, Once
from feinschliff.evaluation.evaluations import NEWEST_FIRST, Evaluations, Listing, found
from feinschliff.evaluation.optimization import store as optimization_store
from feinschliff.evaluation.optimization.search import Turns
from feinschliff.evaluation.optimization.store import OPTIMIZATION, UNFINISHED, Optimization
from feinschliff.evaluation.prompts.book import PromptBook
from feinschliff.evaluation.resources import NO_USAGE, OVERALL, PROJECT, DatasetFacts, Eval, Split, Usage
from feinschliff.evaluation.runs import item_store
from feinschliff.evaluation.runs.comparisons import Comparisons, RunComparison
from feinschliff.evaluation.statistics.intervals import CONFIDENCE, SEED
from feinschliff.graders.spec import refused
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.context import current_request_id
from feinschliff.kit.db import Database
from feinschliff.kit.errors import AlreadyExists, WrongState
from feinschliff.kit.filters import conditions, parse_order
from feinschliff.kit.watch import Wake

CANDIDATES_DEFAULT, CANDIDATES_MAX, EXAMPLES_MAX = 32, 1000, 64


@dataclass(frozen=True)
class OptimizationDraft:
    """A search as its maker wants it; 0 candidates: the default, empty prompt: the eval's."""

    parent: str
    optimization_id: str
    eval: str
    model: str
    proposer_model: str
    start_prompt: str
    candidates_max: int
    examples_max: int
    seed: int


class OptimizationView(NamedTuple):
    """A search, the tokens of all models, and once it succeeded best against start on rows held back."""

    optimization: Optimization
    usage: Usage
    comparison: RunComparison | None


class Optimizations:
    """Blocking; call it through `offload`."""

    def __init__(
        self,
        database: Database,
        evaluations: Evaluations,
        prompts: PromptBook,
        comparisons: Comparisons,
        clock: Clock,
        wake: Wake,
        new_id: Callable[[str], str],
    ) -> None:
        self._database = database
        self._evaluations = evaluations
        self._prompts = prompts
        self._comparisons = comparisons
        self._clock = clock
        self._wake = wake
        self._new_id = new_id

    def create(
        self, draft: OptimizationDraft, dataset: DatasetFacts | None, once: Once, *, validate_only: bool = False
    ) -> OptimizationView:
        """Queues a search.

        Raises:
            Invalid: OPTIMIZATION_INVALID, NAME_MALFORMED, REQUEST_ID_REUSED.
            NotFound: EVAL_NOT_FOUND, PROMPT_NOT_FOUND.
            WrongState: OPTIMIZATION_ROWS_MISSING, OPTIMIZATION_PROMPT_MISSING.
            AlreadyExists: OPTIMIZATION_EXISTS.
        """
        names.parse(PROJECT, draft.parent, field="parent")
        eval_ = self._evaluations.get(draft.eval)
        _check_numbers(draft)
        held_out_split(eval_, dataset)
        self.start_of(eval_, draft.start_prompt)
        new_id, now = self._new_id("opt-"), self._clock.now()
        chosen = draft.optimization_id
        last = names.check_id(chosen, field="prompt_optimization_id") if chosen else new_id
        wanted = Optimization(
            name=f"{draft.parent}/promptOptimizations/{last}",
            project=draft.parent,
            eval=draft.eval,
            model=draft.model,
            proposer_model=draft.proposer_model,
            start_prompt=draft.start_prompt,
            candidates_max=draft.candidates_max or CANDIDATES_DEFAULT,
            examples_max=draft.examples_max,
            seed=draft.seed,
            created=now,
            lease_until=now,
            request_id=current_request_id(),
        )
        return self._stored(wanted, once, validate_only)

    def _stored(self, wanted: Optimization, once: Once, validate_only: bool) -> OptimizationView:
        if validate_only:
            return OptimizationView(wanted, NO_USAGE, None)

        def make() -> str:
            if not optimization_store.insert(session, wanted):
                raise AlreadyExists("OPTIMIZATION_EXISTS", f"{wanted.name} exists.", name=wanted.name)
            return wanted.name

        with self._database.transaction() as session:
            method = f"OptimizePrompt {wanted.project}"
            name = store.LEDGER.once(session, method, once.request_id, once.body_digest, make)
        self._wake.notify()
        return self.get(name)

    def start_of(self, eval_: Eval, start_prompt: str) -> Turns:
        """The turns to start from; a prompt that only points into the row has no words to improve."""
        spec = {"prompt": start_prompt} if start_prompt else eval_.prompt
        named = str(spec.get("prompt", ""))
        messages = self._prompts.get(named).messages if named else spec.get("messages")
        if not isinstance(messages, list):
            message = f"{eval_.name} takes its prompt from the row; name a start_prompt with a template."
            raise WrongState("OPTIMIZATION_PROMPT_MISSING", message, eval=eval_.name)
        return messages

    def get(self, name: str) -> OptimizationView:
        names.parse(OPTIMIZATION, name)
        with self._database.reading() as session:
            seen = found(optimization_store.get(session, name), "OPTIMIZATION_NOT_FOUND", name)
        return self._view(seen)

    def _view(self, seen: Optimization) -> OptimizationView:
        with self._database.reading() as session:
            runs = [one["run"] for one in seen.candidates if one.get("run")] + list(seen.held_out)
            used = [item_store.usage_of(session, run) for run in runs]
        usage = Usage(*(sum(numbers) for numbers in zip(seen.proposer_usage, *used, strict=True)))
        comparison = None
        if seen.state == "succeeded":
            first, second = seen.held_out[0], seen.held_out[-1]
            comparison = self._comparisons.compare(first, second, OVERALL, CONFIDENCE, SEED)
        return OptimizationView(seen, usage, comparison)

    def after(self, name: str, cursor: int) -> builtins.list[OptimizationView]:
        view = self.get(name)
        return [view] if view.optimization.changes > cursor else []

    def is_over(self, name: str) -> bool:
        return self.get(name).optimization.state not in UNFINISHED

    def list(self, asked: Listing) -> tuple[builtins.list[OptimizationView], str, int]:
        names.parse(PROJECT, asked.parent, field="parent")
        where = conditions(asked.filter, optimization_store.FIELDS, optimization_store.READERS)
        order = parse_order(asked.order_by, list(optimization_store.ORDERS), NEWEST_FIRST)
        table = optimization_store.OPTIMIZATIONS
        with self._database.reading() as session:
            scope = [table.c.project == asked.parent, *where]
            column = optimization_store.ORDERS[order.field]
            page = asked.page("promptOptimizations")
            listed = store.list_rows(session, table, scope, column, table.c.name, order, page)
        views = [self._view(optimization_store.of_row(row)) for row in listed.rows]
        return views, listed.next_page_token, listed.total

    def cancel(self, name: str) -> OptimizationView:
        """Stops a search; a second time changes nothing. Raises WrongState OPTIMIZATION_STATE_FORBIDS when over."""
        names.parse(OPTIMIZATION, name)
        with self._database.transaction() as session:
            seen = found(optimization_store.lock(session, name), "OPTIMIZATION_NOT_FOUND", name)
            if seen.state in ("succeeded", "failed"):
                message = f"{name} is {seen.state}; there is nothing to stop."
                raise WrongState("OPTIMIZATION_STATE_FORBIDS", message, name=name, state=seen.state)
            if seen.state != "cancelled":
                optimization_store.save(session, seen, state="cancelled", finished=self._clock.now())
        self._wake.notify()
        return self.get(name)


def held_out_split(eval_: Eval, dataset: DatasetFacts | None) -> Split:
    """The rows that judge: the eval's split, else test; never those that are searched on, which are TRAIN."""
    rows = dict(dataset.rows_by_split) if dataset is not None else {}
    split: Split = eval_.split if eval_.split in ("validation", "test") else "test"
    if rows.get("train", 0) < 2 or not rows.get(split):
        message = (
            f"A search needs rows to search on (train, at least 2) and rows to judge by ({split}); there are {rows}."
        )
        raise WrongState("OPTIMIZATION_ROWS_MISSING", message, eval=eval_.name, split=split)
    return split


def _check_numbers(draft: OptimizationDraft) -> None:
    limits = {"candidates_max": (2, CANDIDATES_MAX), "examples_max": (0, EXAMPLES_MAX)}
    for field, (low, high) in limits.items():
        value = getattr(draft, field)
        if not (low <= value <= high or value == 0):
            message = f"{field} is {value}; it is {low} to {high}, or 0."
            raise refused("OPTIMIZATION_INVALID", f"prompt_optimization.{field}", message, value=value)
    for field in ("model", "proposer_model"):
        if len(getattr(draft, field)) > MODEL_CHARACTERS_MAX:
            message = f"{field} has more than {MODEL_CHARACTERS_MAX} characters."
            raise refused("OPTIMIZATION_INVALID", f"prompt_optimization.{field}", message)
