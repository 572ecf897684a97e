"""What a running trainer tells the service, and how an attempt ended.

Every report has a `key`, unique in its job: a step that is done again after a crash repeats its key, so the
service keeps the first and a watcher never sees it twice.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal

from pydantic import Field

from feinschliff.formats.base import Stored


class ExitCode(IntEnum):
    """How the trainer ends; anything else is a crash and is tried again."""

    DONE = 0
    DATA_BAD = 65
    RESUME_ME = 75


class Progress(Stored):
    """Where the attempt stands; the newest one wins, none is kept."""

    kind: Literal["progress"] = "progress"
    stage: Literal["loading", "encoding", "training", "validating", "saving"]
    step: int = Field(0, ge=0)
    steps_total: int = Field(0, ge=0)
    eta_seconds: float | None = None


class Metrics(Stored):
    """Numbers of one optimiser step, or of one validation measured before the step `step + 1`."""

    kind: Literal["metrics"] = "metrics"
    key: str
    phase: Literal["train", "validation"]
    step: int = Field(ge=0)
    steps_total: int = Field(ge=0)
    epoch: float = Field(ge=0)
    trained_tokens: int = Field(ge=0)
    eta_seconds: float | None = None
    values: dict[str, float] = Field(description="loss (nats/token), learning_rate, tokens_per_second, gradient_norm.")


class CheckpointReport(Stored):
    """A checkpoint whose manifest is committed."""

    kind: Literal["checkpoint"] = "checkpoint"
    key: str
    step: int = Field(ge=0)
    prefix: str = Field(description="Where it lies, as a URI once it has left the trainer.")
    digest: str
    values: dict[str, float] = Field(default_factory=dict)
    best: bool = False


class Notice(Stored):
    """Something that a person should read: an early stop, a dropped row, a resumed run."""

    kind: Literal["notice"] = "notice"
    key: str
    level: Literal["info", "warning", "error"] = "info"
    message: str


Report = Annotated[Progress | Metrics | CheckpointReport | Notice, Field(discriminator="kind")]


class Failure(Stored):
    """Why an attempt cannot succeed; written to `failure.json` beside the result and sent with Finish."""

    reason: str = Field(pattern=r"^[A-Z][A-Z0-9_]+$")
    message: str
    advice: list[str] = Field(default_factory=list)
    retryable: bool = False


class GoldenProbe(Stored):
    """A fixed prompt and what the trained model makes of it; replayed on every later form of the model."""

    prompt: str
    prompt_token_ids: list[int]
    token_ids: list[int] = Field(description="Greedy continuation; empty where a head answers.")
    logprobs: list[float] = Field(description="Natural log-probability of each continued token.")
    scores: list[float] = Field(
        default_factory=list, description="What a head says: log-probabilities of its classes, or its number."
    )


class Result(Stored):
    """The `meta` of `result/manifest.json`: all that a model version records of its making."""

    base_model: str
    base_digest: str
    adapter_digest: str
    chat_template_hash: str
    tokenizer_hash: str
    stop_token_ids: list[int]
    code_version: str
    steps: int
    epochs: float
    trained_tokens: int
    best_step: int
    stopped_early: bool
    metrics: dict[str, float]
    golden_probes: list[GoldenProbe]
    seconds: float = Field(ge=0, description="Wall time of the attempt that finished; not part of any digest.")
    energy_joules: float | None = Field(None, ge=0, description="Of all attempts, estimated; not part of any digest.")
    energy_source: str = Field("", description="How it was had: `rapl`, `nvml`, `model`, joined by `+`.")
    hardware: str
    packages: dict[str, str]


class TaskResults(Stored):
    """The `meta` of `result/manifest.json` where every task has an adapter of its own."""

    tasks: dict[str, str] = Field(min_length=1, description="Task to the store prefix whose `meta` is its `Result`.")
