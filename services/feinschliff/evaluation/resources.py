"""What the room keeps: evals, their runs, and what models answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from feinschliff.evaluation.life import State
from feinschliff.evaluation.prompts.prompt import DEFAULT_ANSWER, PromptSpec
from feinschliff.evaluation.statistics.intervals import Interval
from feinschliff.formats.records import Message
from feinschliff.formats.report import Failure
from feinschliff.graders.grade import Judgement
from feinschliff.graders.spec import Spec

PROJECT = "projects/{project}"
DATASET_VERSION = "projects/{project}/datasets/{dataset}/versions/{version}"
EVAL = "projects/{project}/evals/{eval}"
RUN = "projects/{project}/evals/{eval}/runs/{run}"
ITEM = "projects/{project}/evals/{eval}/runs/{run}/items/{item}"
OVERALL = "overall"
"""The result over all graders of an eval, beside those of each."""

Split = Literal["", "train", "validation", "test"]
"""The rows that count; empty means all, in a request that nothing was said."""

Sampling = Mapping[str, object]
"""Sampling parameters as JSON, named as in the API; an absent one is the server's default."""


class DatasetFacts(NamedTuple):
    """What an eval must know of its rows before it reads them."""

    name: str
    is_ready: bool
    rows: int
    rows_by_split: Mapping[str, int]


class Usage(NamedTuple):
    """Tokens of one answer, or the sum over several."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


NO_USAGE = Usage()


class Identity(NamedTuple):
    """What exactly answered."""

    model_version: str
    base_digest: str
    adapter_digest: str
    template_hash: str


class GradeGiven(NamedTuple):
    """One grader's grade of one answer; `value` None: it cannot be graded. The rest is as in `graders.grade.Grade`."""

    grader: str
    value: float | None
    passed: bool
    why: str
    fault: str = ""
    raw: float | None = None
    label: str = ""
    expected_label: str = ""
    parts: Mapping[str, float] = MappingProxyType({})
    judgements: Sequence[Judgement] = ()


class GradedLine(NamedTuple):
    """One stored item as statistics need it; `row_key` is the same for equal rows, empty where that is not known."""

    line: int
    is_errored: bool
    grades: Sequence[GradeGiven]
    row_key: str = ""

    @property
    def key(self) -> str | int:
        """What the answer repeats: others to the same line, and to equal rows."""
        return self.row_key or self.line


class GraderResult(NamedTuple):
    """One grader over one run; `ungradable` and `errored` items are in no mean.

    `clusters` is how many different rows the `n` items are about, which is what the interval counts; 0: not known.
    """

    grader: str
    n: int
    ungradable: int
    errored: int
    passed: int
    mean: float | None
    interval: Interval | None
    pass_at: Mapping[int, float] = MappingProxyType({})
    pass_all: Mapping[int, float] = MappingProxyType({})
    clusters: int = 0

    def to_json(self) -> Mapping[str, object]:
        by_k = {"pass_at": dict(self.pass_at), "pass_all": dict(self.pass_all)}
        return {**self._asdict(), "interval": list(self.interval) if self.interval else None, **by_k}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> GraderResult:
        interval = stored["interval"]
        by_k = {name: {int(k): value for k, value in stored.get(name, {}).items()} for name in ("pass_at", "pass_all")}
        return cls(**{**stored, "interval": Interval(*interval) if interval else None, **by_k})


@dataclass(frozen=True)
class Eval:
    """Which rows, which prompt, which graders; what it measures never changes."""

    name: str
    parent: str
    display_name: str
    description: str
    dataset_version: str
    prompt: PromptSpec
    graders: Sequence[Spec]
    sampling: Sampling
    split: Split
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    created: datetime
    updated: datetime
    version: int = 1
    item_schema: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Run:
    """One model measured by one eval.

    `total` is the number of items, rows times `samples`, fixed when the run is made. `has_own_rows` says that the rows
    are kept with the run; `dataset_version` is then empty. `examples` is a `FewShot` as JSON. `changes` rises with each
    change that a watcher can see, `version` with each change of state. `judge_usage` is the tokens of prompts and
    answers of each judging model, by its name; None where none was asked, or not counted yet.
    """

    name: str
    eval: str
    project: str
    display_name: str
    model: str
    dataset_version: str
    sampling: Sampling
    prompt: PromptSpec | None
    split: Split
    limit: int
    concurrency: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    total: int
    created: datetime
    lease_until: datetime
    answer_path: str = DEFAULT_ANSWER
    state: State = State.QUEUED
    done: int = 0
    failure: Failure | None = None
    results: Sequence[GraderResult] | None = None
    request_id: str = ""
    lease_owner: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    changes: int = 1
    version: int = 1
    samples: int = 1
    has_own_rows: bool = False
    tools: Sequence[Mapping[str, object]] | None = None
    completions: Mapping[str, object] | None = None
    examples: Mapping[str, object] | None = None
    judge_usage: Mapping[str, Sequence[int]] | None = None


@dataclass(frozen=True)
class OutputItem:
    """One row, the answer and its grades; `error` says why there is no answer. Never changed once stored."""

    run: str
    position: int
    line: int
    item: Mapping[str, object]
    created: datetime
    prompt: Sequence[Message] = ()
    message: Message | None = None
    finish_reason: str = ""
    usage: Usage = NO_USAGE
    latency_seconds: float = 0.0
    identity: Identity | None = None
    grades: Sequence[GradeGiven] = field(default_factory=tuple)
    error: Failure | None = None
    sample_index: int = 0
    row_key: str = ""
    """As `GradedLine.row_key`."""

    def but(self, **changes: Any) -> OutputItem:
        return replace(self, **changes)

    @property
    def sample(self) -> str:
        return (self.message.content or "") if self.message is not None else ""

    @property
    def passed(self) -> bool | None:
        """Whether every grader that can grade it passes; None where none can."""
        return passes(self.grades)


def passes(grades: Sequence[GradeGiven]) -> bool | None:
    graded = [grade.passed for grade in grades if grade.value is not None]
    return all(graded) if graded else None
