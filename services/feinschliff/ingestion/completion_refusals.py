"""What the completion log does not take: one function per reason, each with what was found and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from feinschliff.ingestion.completion_model import RETENTION_DAYS_MAX
from feinschliff.ingestion.texts import check_pairs, check_text
from feinschliff.kit.errors import AlreadyExists, Conflict, FieldViolation, Invalid, NotFound

METADATA_PAIRS_MAX, METADATA_KEY_MAX, METADATA_VALUE_MAX = 16, 64, 512
TURNS_MAX = 4096
CLOCKS_DIFFER_MAX = timedelta(days=1)


def check_texts(model: str, deployment: str, user: str, request_id: str) -> None:
    """Raises Invalid TEXT_TOO_LONG, naming the field."""
    for field, text, most in (("model", model, 1024), ("deployment", deployment, 400)):
        check_text(f"completion.{field}", text, most)
    for field, text in (("user", user), ("request_id", request_id)):
        check_text(f"completion.{field}", text, 64)


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises Invalid METADATA_INVALID."""
    if (
        len(metadata) > METADATA_PAIRS_MAX
        or any(not 1 <= len(key) <= METADATA_KEY_MAX for key in metadata)
        or any(len(value) > METADATA_VALUE_MAX for value in metadata.values())
    ):
        message = (
            f"At most {METADATA_PAIRS_MAX} pairs; keys have 1 to {METADATA_KEY_MAX} characters,"
            f" values at most {METADATA_VALUE_MAX}."
        )
        field = "completion.metadata"
        raise Invalid("METADATA_INVALID", message, fields=[FieldViolation(field, message, "METADATA_INVALID")])


def check_turns(turns: int, latency_seconds: float) -> None:
    """Raises Invalid COMPLETION_INVALID, naming the field."""
    wrong = []
    if turns > TURNS_MAX:
        told = f"A conversation has at most {TURNS_MAX} turns, not {turns}."
        wrong.append(FieldViolation("completion.messages", told, "OUT_OF_RANGE"))
    if not math.isfinite(latency_seconds) or latency_seconds < 0:
        told = f"latency_seconds must be 0 or more, not {latency_seconds:g}."
        wrong.append(FieldViolation("completion.latency_seconds", told, "OUT_OF_RANGE"))
    _refuse("COMPLETION_INVALID", wrong)


def check_feedback(is_said: bool, value: float | None, comment: str, author: str, labels: Mapping[str, str]) -> None:
    """Raises Invalid: FEEDBACK_INVALID, TEXT_TOO_LONG, LABELS_INVALID."""
    wrong = []
    if not is_said:
        told = "Give a value, a comment or a correction; this has none."
        wrong.append(FieldViolation("feedback", told, "NOTHING_SAID"))
    if value is not None and not 0 <= value <= 1:
        wrong.append(FieldViolation("feedback.value", f"value must be 0 to 1, not {value:g}.", "OUT_OF_RANGE"))
    _refuse("FEEDBACK_INVALID", wrong)
    check_text("feedback.comment", comment, 4096)
    check_text("feedback.author", author, 128)
    check_pairs(labels, {})


def check_policy(retention_days: int, sampled_fraction: float) -> None:
    """Raises Invalid POLICY_INVALID, naming the field."""
    wrong = []
    if not 0 <= retention_days <= RETENTION_DAYS_MAX:
        told = f"retention_days must be 1 to {RETENTION_DAYS_MAX}, or 0 for ever, not {retention_days}."
        wrong.append(FieldViolation("completion_policy.retention_days", told, "OUT_OF_RANGE"))
    if not 0 <= sampled_fraction <= 1:
        told = f"sampled_fraction must be 0 to 1, not {sampled_fraction:g}."
        wrong.append(FieldViolation("completion_policy.sampled_fraction", told, "OUT_OF_RANGE"))
    _refuse("POLICY_INVALID", wrong)


def check_exchange_time(taken: datetime, now: datetime) -> datetime:
    """When an exchange was; a writer's clock may be a little ahead of ours, and then it was now.

    Raises:
        Invalid: COMPLETION_INVALID.
    """
    wrong = []
    if taken > now + CLOCKS_DIFFER_MAX:
        told = f"exchange_time is {taken:%Y-%m-%dT%H:%M:%SZ}, which is still to come; it is {now:%Y-%m-%dT%H:%M:%SZ}."
        wrong.append(FieldViolation("exchange_time", told, "OUT_OF_RANGE"))
    if taken < now - timedelta(days=RETENTION_DAYS_MAX):
        told = f"exchange_time is {taken:%Y-%m-%d}; at most {RETENTION_DAYS_MAX} days ago are taken."
        wrong.append(FieldViolation("exchange_time", told, "OUT_OF_RANGE"))
    _refuse("COMPLETION_INVALID", wrong)
    return min(taken, now)


def too_large(field: str, size_bytes: int, limit_bytes: int) -> Invalid:
    message = f"`{field}` takes {size_bytes} bytes as JSON; the log keeps at most {limit_bytes} of one exchange."
    return Invalid(
        "COMPLETION_TOO_LARGE",
        message,
        fields=[FieldViolation(field, message, "COMPLETION_TOO_LARGE")],
        advice=["Refer to large content by URI, or raise FEINSCHLIFF_INGESTION_COMPLETION_BYTES_MAX."],
        size_bytes=size_bytes,
        limit_bytes=limit_bytes,
    )


def exists(name: str) -> AlreadyExists:
    return AlreadyExists(
        "COMPLETION_EXISTS",
        f"There is a completion {name} already.",
        advice=["Take another id; to repeat a call, send its request_id."],
        completion=name,
    )


def not_found(name: str) -> NotFound:
    return NotFound("COMPLETION_NOT_FOUND", f"There is no completion {name}.", completion=name)


def etag_mismatch(name: str, etag: str, sent: str) -> Conflict:
    message = f"{name} changed since it was read; read it again."
    return Conflict("ETAG_MISMATCH", message, name=name, etag=etag, sent=sent)


def _refuse(reason: str, wrong: Sequence[FieldViolation]) -> None:
    if wrong:
        raise Invalid(reason, " ".join(violation.description for violation in wrong), fields=wrong)
