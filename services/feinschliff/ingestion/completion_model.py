"""The nouns of the completion log: exchanges with served models, judgements of them, and what a project keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

COMPLETION = "projects/{project}/completions/{completion}"
FEEDBACK = "projects/{project}/completions/{completion}/feedback/{feedback}"
POLICY = "projects/{project}/completionPolicy"

RETENTION_DAYS_DEFAULT = 30
RETENTION_DAYS_MAX = 3650

Content = Mapping[str, Any]
"""The API's JSON form of what is kept whole and never searched: messages, tools, sampling, answer, identity, usage."""


@dataclass(frozen=True)
class Completion:
    """One exchange; only `metadata` ever changes, and `revision` counts its writes.

    Attributes:
        finish_reason: the API's name for it without its prefix, `STOP`.
        expires: when it goes away by itself, by the policy of today; None: never.
    """

    project: str
    id: str
    created: datetime
    model: str
    content: Content
    deployment: str = ""
    finish_reason: str = ""
    user: str = ""
    request_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    revision: int = 1
    expires: datetime | None = None

    @property
    def name(self) -> str:
        return COMPLETION.format(project=self.project, completion=self.id)

    @property
    def etag(self) -> str:
        return str(self.revision)


@dataclass(frozen=True)
class Feedback:
    """What somebody thought of an exchange; it never changes.

    Attributes:
        value: 0 (bad) to 1 (good).
        correction: what the answer should have been, in the API's JSON form.
    """

    project: str
    completion: str
    id: str
    created: datetime
    value: float | None = None
    comment: str = ""
    correction: Content | None = None
    author: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return FEEDBACK.format(project=self.project, completion=self.completion, feedback=self.id)


@dataclass(frozen=True)
class Policy:
    """What a project keeps; `revision` 0 is one that nobody has written.

    Attributes:
        retention_days: 0 keeps an exchange for ever.
        sampled_fraction: share kept of the calls that do not say whether they want to be; inference draws.
        redact: kinds of personal data that are replaced before anything is stored.
    """

    project: str
    retention_days: int = RETENTION_DAYS_DEFAULT
    sampled_fraction: float = 0.0
    revision: int = 0
    redact: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return POLICY.format(project=self.project)

    @property
    def etag(self) -> str:
        return str(self.revision)

    def oldest(self, now: datetime) -> datetime | None:
        """Exchanges from before this moment are gone; None: there is no such moment."""
        return now - timedelta(days=self.retention_days) if self.retention_days else None

    def expiry(self, created: datetime) -> datetime | None:
        return created + timedelta(days=self.retention_days) if self.retention_days else None
