"""Prompts as objects: a new text is a new version, and none ever changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Column, Integer, String, Table, UniqueConstraint, func, select

from feinschliff.evaluation import checks
from feinschliff.evaluation.drafts import Once
from feinschliff.evaluation.evaluations import NEWEST_FIRST, Listing, found
from feinschliff.evaluation.prompts import STORED_PROMPT, Prompt
from feinschliff.evaluation.resources import PROJECT, Sampling
from feinschliff.evaluation.store import LEDGER, METADATA, Listed, list_rows, storable
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database, Json, Session, UtcDateTime, insert_ignore, select_one
from feinschliff.kit.errors import Conflict
from feinschliff.kit.filters import conditions, parse_order, time_value

PROMPT = "projects/{project}/prompts/{prompt}"

PROMPTS = Table(
    "evaluation_prompts",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("project", String(100), nullable=False, index=True),
    Column("prompt", String(190), nullable=False),
    Column("number", Integer, nullable=False),
    Column("messages", Json, nullable=False),
    Column("tools", Json, nullable=False),
    Column("sampling", Json, nullable=False),
    Column("description", String(4096), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("labels", Json, nullable=False),
    Column("annotations", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    UniqueConstraint("prompt", "number"),
)
_FIELDS = {"create_time": PROMPTS.c.created, "labels": PROMPTS.c.labels}
_ORDERS = {"create_time": PROMPTS.c.created}


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


@dataclass(frozen=True)
class StoredPrompt:
    """One version; `prompt` is the name without it."""

    name: str
    project: str
    prompt: str
    number: int
    messages: Sequence[Mapping[str, object]]
    tools: Sequence[Mapping[str, object]]
    sampling: Sampling
    description: str
    sha256: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    created: datetime


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
            query = select(func.coalesce(func.max(PROMPTS.c.number), 0)).where(PROMPTS.c.prompt == prompt)
            made = self._stored(draft, prompt, int(session.scalar(query) or 0) + 1)
            if not insert_ignore(session, PROMPTS, [storable(asdict(made))]):
                raise Conflict("WRITE_CONFLICT", f"{prompt} got another version meanwhile; try again.", prompt=prompt)
            return made.name

        with self._database.transaction() as session:
            name = LEDGER.once(session, f"CreatePrompt {draft.parent}", once.request_id, once.body_digest, make)
            return found(_get(session, name), "PROMPT_NOT_FOUND", name)

    def get(self, name: str) -> StoredPrompt:
        """One version, or the newest where `name` says none; raises NotFound PROMPT_NOT_FOUND."""
        with self._database.reading() as session:
            if "/versions/" in name:
                names.parse(STORED_PROMPT, name)
                return found(_get(session, name), "PROMPT_NOT_FOUND", name)
            names.parse(PROMPT, name)
            newest = select(PROMPTS.c.name).where(PROMPTS.c.prompt == name).order_by(PROMPTS.c.number.desc()).limit(1)
            return found(_get(session, session.scalar(newest) or ""), "PROMPT_NOT_FOUND", name)

    def list(self, asked: Listing) -> tuple[list[StoredPrompt], str, int]:
        """The newest version of each prompt of a project, or all versions of one."""
        of_one = "/prompts/" in asked.parent
        names.parse(PROMPT if of_one else PROJECT, asked.parent, field="parent")
        where = conditions(asked.filter, _FIELDS, {"create_time": time_value})
        order = parse_order(asked.order_by, list(_ORDERS), NEWEST_FIRST)
        with self._database.reading() as session:
            listed = _page(session, asked, where, of_one, order)
        return [StoredPrompt(**row) for row in listed.rows], listed.next_page_token, listed.total

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


def _get(session: Session, name: str) -> StoredPrompt | None:
    row = select_one(session, PROMPTS, name=name)
    return None if row is None else StoredPrompt(**{field.name: row[field.name] for field in fields(StoredPrompt)})


def _page(session: Session, asked: Listing, where: Sequence[Any], of_one: bool, order: Any) -> Listed:
    if of_one:
        scope = [PROMPTS.c.prompt == asked.parent]
    else:
        newer = PROMPTS.alias()
        has_newer = select(newer.c.name).where(newer.c.prompt == PROMPTS.c.prompt, newer.c.number > PROMPTS.c.number)
        scope = [PROMPTS.c.project == asked.parent, ~has_newer.exists()]
    page = asked.page("prompts")
    return list_rows(session, PROMPTS, [*scope, *where], _ORDERS[order.field], PROMPTS.c.name, order, page)
