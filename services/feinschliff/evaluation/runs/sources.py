"""Where a run's rows come from: fetched once, when it is made."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from feinschliff.evaluation.clients import CompletionLog, Datasets
from feinschliff.evaluation.drafts import COMPLETIONS_DEFAULT, Brought, RunDraft, check_sources
from feinschliff.evaluation.prompts.book import PromptBook
from feinschliff.evaluation.prompts.examples import ExamplesDraft, Shot, stored_examples
from feinschliff.evaluation.resources import DATASET_VERSION, DatasetFacts, Eval
from feinschliff.graders.grade import Item
from feinschliff.kit import names
from feinschliff.kit.threads import offload


class Sources(NamedTuple):
    """The rooms and tables that rows, examples and prompts come from."""

    datasets: Datasets
    completions: CompletionLog
    prompts: PromptBook

    async def facts(self, version: str, field: str) -> DatasetFacts | None:
        if not version:
            return None
        names.parse(DATASET_VERSION, version, field=field)
        return await self.datasets.facts(version)

    async def brought(self, draft: RunDraft, eval_: Eval) -> tuple[DatasetFacts | None, Brought]:
        """The facts of the run's rows, and what is kept with the run.

        Raises:
            Invalid: as `check_sources`; EXAMPLES_INVALID where there is no row to show.
            NotFound: PROMPT_NOT_FOUND; what ingestion refuses with.
        """
        check_sources(draft)
        prompt = str((draft.prompt or eval_.prompt).get("prompt", ""))
        sampling = (await offload(self.prompts.get, prompt)).sampling if prompt else {}
        rows: Sequence[Item] = draft.rows
        if draft.completions is not None:
            limit = draft.completions.limit or COMPLETIONS_DEFAULT
            rows = await self.completions.rows(eval_.parent, draft.completions.filter, limit)
        facts = await self._facts_of(draft, eval_, rows)
        version = facts.name if facts is not None else ""
        examples = None
        if draft.examples is not None:
            examples = stored_examples(draft.examples, version, await self._shots(draft.examples, version, rows))
        return facts, Brought(rows, examples, sampling)

    async def _facts_of(self, draft: RunDraft, eval_: Eval, rows: Sequence[Item]) -> DatasetFacts | None:
        if draft.rows or draft.completions is not None:
            return DatasetFacts("", True, len(rows), {})
        return await self.facts(draft.dataset_version or eval_.dataset_version, "eval_run.dataset_version")

    async def _shots(self, wanted: ExamplesDraft, version: str, rows: Sequence[Item]) -> list[Shot]:
        """One more than are shown, so that the row that is asked can be left out."""
        source = wanted.dataset_version or version
        if source:
            names.parse(DATASET_VERSION, source, field="eval_run.examples.dataset_version")
            drawn = await self.datasets.sample(source, wanted.split, count=wanted.count + 1, seed=wanted.seed)
            return [Shot(row.line, row.data) for row in drawn]
        numbered = [Shot(k, row) for k, row in enumerate(rows, 1)]
        return random.Random(wanted.seed).sample(numbered, min(wanted.count + 1, len(numbered)))
