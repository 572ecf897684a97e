"""The completion log: exchanges recorded once, read, judged, and gone when their time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import orjson

from feinschliff.formats.exchanges import content_bytes
from feinschliff.ingestion import completion_store as tables
from feinschliff.ingestion import redaction
from feinschliff.ingestion.completion_model import COMPLETION, Completion, Content, Feedback, Policy
from feinschliff.ingestion.completion_refusals import (
    check_exchange_time,
    check_feedback,
    check_metadata,
    check_policy,
    check_texts,
    etag_mismatch,
    exists,
    not_found,
    too_large,
)
from feinschliff.ingestion.listing import Wish
from feinschliff.ingestion.store import LEDGER, PageOf
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database, Session
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import offload

SWEPT_AT_ONCE = 500
REQUESTS_KEPT = timedelta(days=7)  # longer than a writer may be away with an exchange that it does not know is stored


@dataclass(frozen=True)
class Exchange:
    """What is to be recorded."""

    model: str
    content: Content
    deployment: str = ""
    finish_reason: str = ""
    user: str = ""
    request_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    taken: datetime | None = None  # when it was begun; None: nobody says

    def check(self, bytes_max: int) -> None:
        """Raises Invalid: COMPLETION_TOO_LARGE, METADATA_INVALID, TEXT_TOO_LONG, COMPLETION_INVALID."""
        check_texts(self.model, self.deployment, self.user, self.request_id)
        check_metadata(self.metadata)
        size = content_bytes(self.content)
        if size > bytes_max:
            raise too_large("completion", size, bytes_max)


@dataclass(frozen=True)
class Judgement:
    """What somebody says about an exchange."""

    value: float | None = None
    comment: str = ""
    correction: Content | None = None
    author: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def check(self, bytes_max: int) -> None:
        """Raises Invalid: FEEDBACK_INVALID, LABELS_INVALID, TEXT_TOO_LONG, COMPLETION_TOO_LARGE."""
        is_said = self.value is not None or bool(self.comment) or self.correction is not None
        check_feedback(is_said, self.value, self.comment, self.author, self.labels)
        size = len(orjson.dumps(self.correction)) if self.correction is not None else 0
        if size > bytes_max:
            raise too_large("feedback.correction", size, bytes_max)


class Completions:
    """The rules of the log; each method is one short transaction."""

    def __init__(self, database: Database, clock: Clock, metrics: Metrics, *, bytes_max: int) -> None:
        """
        Args:
            bytes_max: most that the messages, tools and answer of one exchange may take, as JSON.
        """
        self._database = database
        self._clock = clock
        self._bytes_max = bytes_max
        self._recorded = metrics.counter("feinschliff_ingestion_completions_recorded_total")
        self._judged = metrics.counter("feinschliff_ingestion_feedback_total")
        self._expired = metrics.counter("feinschliff_ingestion_completions_expired_total")

    def record(
        self, project: str, completion: str, exchange: Exchange, *, request_id: str, body_digest: str
    ) -> Completion:
        """Stores an exchange; the same request again gives the same one.

        Raises:
            AlreadyExists: COMPLETION_EXISTS.
            NotFound: COMPLETION_NOT_FOUND where the request stored it before and it was deleted since.
            Invalid: what `Exchange.check` refuses; NAME_MALFORMED, REQUEST_ID_REUSED.
        """
        exchange.check(self._bytes_max)
        wanted = names.check_id(completion, field="completion_id") if completion else names.new_id("chatcmpl-")
        made = self._made(project, wanted, exchange)

        def insert(session: Session) -> str:
            if not tables.insert_completion(session, made):
                raise exists(made.name)
            return wanted

        with self._database.transaction() as session:
            scope = f"{tables.RECORDED}projects/{project}"
            found = LEDGER.once(session, scope, request_id, body_digest, lambda: insert(session))
            stored = self._found(session, project, found)
        self._recorded.inc()
        return stored

    def _made(self, project: str, completion: str, exchange: Exchange) -> Completion:
        """The exchange as it is kept: of its own time, without what the project does not keep."""
        now, fields = self._clock.now(), dict(vars(exchange))
        taken = fields.pop("taken")
        fields["content"] = redaction.without(exchange.content, self.policy(project).redact)
        created = now if taken is None else check_exchange_time(taken, now)
        return Completion(project=project, id=completion, created=created, **fields)

    def get(self, project: str, completion: str) -> Completion:
        """Raises NotFound COMPLETION_NOT_FOUND."""
        with self._database.reading() as session:
            return self._found(session, project, completion)

    def list(self, project: str, wish: Wish) -> PageOf[Completion]:
        asked = tables.COMPLETION_LISTING.ask(wish, f"projects/{project}/completions")
        with self._database.reading() as session:
            return tables.list_completions(session, self._shelf(session, project), asked)

    def update(self, read: Completion, metadata: Mapping[str, str], *, etag: str) -> Completion:
        """Writes metadata over those of the exchange as it was read.

        Raises:
            Invalid: METADATA_INVALID.
            Conflict: ETAG_MISMATCH where the caller read another state, ROW_CHANGED where someone wrote meanwhile.
        """
        check_metadata(metadata)
        _check_etag(read.name, read.etag, etag)
        with self._database.transaction() as session:
            return tables.write_metadata(session, read, metadata)

    def delete(self, project: str, completion: str, *, etag: str = "") -> None:
        """Raises NotFound COMPLETION_NOT_FOUND, Conflict ETAG_MISMATCH."""
        with self._database.transaction() as session:
            there = self._found(session, project, completion, for_update=True)
            _check_etag(there.name, there.etag, etag)
            tables.delete_completions(session, project, [completion])

    def judge(
        self, project: str, completion: str, judgement: Judgement, *, request_id: str, body_digest: str
    ) -> Feedback:
        """Attaches a judgement; the same request again gives the same one.

        Raises:
            NotFound: COMPLETION_NOT_FOUND.
            Invalid: what `Judgement.check` refuses; REQUEST_ID_REUSED.
        """
        judgement.check(self._bytes_max)
        kinds = self.policy(project).redact
        correction = judgement.correction and redaction.turn_without(judgement.correction, kinds)
        judgement = replace(judgement, comment=redaction.text_without(judgement.comment, kinds), correction=correction)
        made = Feedback(
            project=project,
            completion=completion,
            id=names.new_id("fb-"),
            created=self._clock.now(),
            **vars(judgement),
        )

        def insert(session: Session) -> str:
            tables.insert_feedback(session, made)
            return made.id

        with self._database.transaction() as session:
            parent = self._found(session, project, completion, for_update=True)
            scope = f"AddFeedback {parent.name}"
            found = LEDGER.once(session, scope, request_id, body_digest, lambda: insert(session))
            feedback = tables.read_feedback(session, project, completion, found)
            if feedback is None:  # the exchange was deleted and its name taken again
                raise not_found(f"{parent.name}/feedback/{found}")
        self._judged.inc()
        return feedback

    def list_feedback(self, project: str, completion: str, wish: Wish) -> PageOf[Feedback]:
        """Those of one exchange, or with `-` of all that the project has.

        Raises:
            NotFound: COMPLETION_NOT_FOUND.
        """
        asked = tables.FEEDBACK_LISTING.ask(wish, f"projects/{project}/completions/{completion}/feedback")
        with self._database.reading() as session:
            if completion != "-":
                self._found(session, project, completion)
            return tables.list_feedback(session, self._shelf(session, project), completion, asked)

    def policy(self, project: str) -> Policy:
        with self._database.reading() as session:
            return tables.read_policy(session, project)

    def set_policy(
        self, read: Policy, *, retention_days: int, sampled_fraction: float, redact: Sequence[str], etag: str
    ) -> Policy:
        """What the project keeps from now on; the days hold for what is there already, too.

        Raises:
            Invalid: POLICY_INVALID.
            Unserved: FIELD_UNSERVED.
            Conflict: ETAG_MISMATCH, ROW_CHANGED.
        """
        check_policy(retention_days, sampled_fraction)
        redaction.refuse_kinds(redact)
        _check_etag(read.name, read.etag, etag)
        kinds = tuple(dict.fromkeys(redact))
        wanted = replace(read, retention_days=retention_days, sampled_fraction=sampled_fraction, redact=kinds)
        with self._database.transaction() as session:
            return tables.write_policy(session, wanted)

    async def sweep_every(self, seconds: float) -> None:
        while True:
            await offload(self.sweep)
            await asyncio.sleep(seconds)

    @property
    def bytes_max(self) -> int:
        return self._bytes_max

    def sweep(self) -> None:
        """Removes what is past its time; until then it is only not shown."""
        now = self._clock.now()
        with self._database.transaction() as session:
            tables.forget_requests(session, now - REQUESTS_KEPT)
        with self._database.reading() as session:
            policies = [tables.read_policy(session, project) for project in tables.projects_with_completions(session)]
        for policy in policies:
            oldest = policy.oldest(now)
            while oldest is not None:
                with self._database.transaction() as session:
                    ids = tables.outdated(session, policy.project, oldest, SWEPT_AT_ONCE)
                    tables.delete_completions(session, policy.project, ids)
                self._expired.inc(len(ids))
                if len(ids) < SWEPT_AT_ONCE:
                    break

    def _shelf(self, session: Session, project: str) -> tables.Shelf:
        return tables.Shelf(tables.read_policy(session, project), self._clock.now())

    def _found(self, session: Session, project: str, completion: str, *, for_update: bool = False) -> Completion:
        shelf = self._shelf(session, project)
        there = tables.read_completion(session, shelf, completion, for_update=for_update)
        if there is None:
            raise not_found(COMPLETION.format(project=project, completion=completion))
        return there


def _check_etag(name: str, etag: str, sent: str) -> None:
    if sent and sent != etag:
        raise etag_mismatch(name, etag, sent)
