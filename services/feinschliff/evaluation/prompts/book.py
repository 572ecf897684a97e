"""Prompts as objects: a new text is a new version, and none ever changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from feinschliff.evaluation import checks
from feinschliff.evaluation.drafts import Once
from feinschliff.evaluation.evaluations import NEWEST_FIRST, Listing, found
from feinschliff.evaluation.prompts import store as prompt_store
from feinschliff.evaluation.prompts.prompt import STORED_PROMPT, Prompt
from feinschliff.evaluation.prompts.store import StoredPrompt
from feinschliff.evaluation.resources import PROJECT, Sampling
from feinschliff.evaluation.store import LEDGER
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Conflict
from feinschliff.kit.filters import conditions, parse_order, time_value

PROMPT = "projects/{project}/prompts/{prompt}"


@dataclass(frozen=True)
class PromptDraft:
    """A prompt as its maker wants it; `messages` are `{"role", "text"}`, `tools` as in the API's JSON."""

    parent: str
    prompt_id: str
    messages: Sequence[Mapping[str, object]]
    tools: Sequence[Mapping[str, object]]
    sampling: Sampling
    description: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class PromptBook:
    """The prompts of all projects. Blocking; call it through `offload`."""

    def __init__(self, database: Database, clock: Clock, new_id: Callable[[str], str]) -> None:
        self._database = database
        self._clock = clock
        self._new_id = new_id

    def create(self, draft: PromptDraft, once: Once) -> StoredPrompt:
        """Stores the next version of a prompt; the first one of an id that is new.

        Raises:
            Invalid: what names, prompts, sampling, labels and the limits refuse; REQUEST_ID_REUSED.
        """
        names.parse(PROJECT, draft.parent, field="parent")
        check_prompt(draft)
        prompt_id = names.check_id(draft.prompt_id, field="prompt_id") if draft.prompt_id else self._new_id("prompt-")
        prompt = f"{draft.parent}/prompts/{prompt_id}"

        def make() -> str:
            made = self._stored(draft, prompt, prompt_store.newest_number(session, prompt) + 1)
            if not prompt_store.insert(session, made):
                raise Conflict("WRITE_CONFLICT", f"{prompt} got another version meanwhile; try again.", prompt=prompt)
            return made.name

        with self._database.transaction() as session:
            name = LEDGER.once(session, f"CreatePrompt {draft.parent}", once.request_id, once.body_digest, make)
            return found(prompt_store.get(session, name), "PROMPT_NOT_FOUND", name)

    def get(self, name: str) -> StoredPrompt:
        """One version, or the newest where `name` says none; raises NotFound PROMPT_NOT_FOUND."""
        with self._database.reading() as session:
            if "/versions/" in name:
                names.parse(STORED_PROMPT, name)
                return found(prompt_store.get(session, name), "PROMPT_NOT_FOUND", name)
            names.parse(PROMPT, name)
            return found(prompt_store.newest(session, name), "PROMPT_NOT_FOUND", name)

    def list(self, asked: Listing) -> tuple[list[StoredPrompt], str, int]:
        """The newest version of each prompt of a project, or all versions of one."""
        of_one = "/prompts/" in asked.parent
        names.parse(PROMPT if of_one else PROJECT, asked.parent, field="parent")
        where = conditions(asked.filter, prompt_store.FIELDS, {"create_time": time_value})
        order = parse_order(asked.order_by, list(prompt_store.ORDERS), NEWEST_FIRST)
        with self._database.reading() as session:
            read = prompt_store.versions if of_one else prompt_store.newest_of_each
            listed = read(session, asked.parent, where, order, asked.page("prompts"))
        return [prompt_store.of_row(row) for row in listed.rows], listed.next_page_token, listed.total

    def _stored(self, draft: PromptDraft, prompt: str, number: int) -> StoredPrompt:
        content = {"messages": draft.messages, "tools": draft.tools, "sampling": draft.sampling}
        return StoredPrompt(
            name=f"{prompt}/versions/{number}",
            project=draft.parent,
            prompt=prompt,
            number=number,
            messages=draft.messages,
            tools=draft.tools,
            sampling=draft.sampling,
            description=draft.description,
            sha256=hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest(),
            labels=draft.labels,
            annotations=draft.annotations,
            created=self._clock.now(),
        )


def check_prompt(draft: PromptDraft) -> None:
    Prompt.from_spec({"messages": draft.messages}, field="prompt")
    checks.check_words("", draft.description, draft.labels, draft.annotations, "prompt")
    checks.check_sampling(draft.sampling, "prompt.sampling", samples_max=1)
    checks.check_tools(draft.tools, "prompt.tools")
