"""Between the API's messages and our own nouns: the completion log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from feinschliff.formats.exchanges import content_of
from feinschliff.ingestion.completion_model import RETENTION_DAYS_DEFAULT, Completion, Content, Feedback, Policy
from feinschliff.ingestion.completion_refusals import check_turns
from feinschliff.ingestion.completions import Exchange, Judgement
from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.v1 import common_pb2
from feinschliff.v1 import ingestion_pb2 as pb

_PREFIX = "FINISH_REASON_"
M = TypeVar("M", bound=Message)


def exchange_of(request: pb.RecordCompletionRequest) -> Exchange:
    """Raises Invalid COMPLETION_INVALID."""
    completion = request.completion
    check_turns(len(completion.messages), completion.latency_seconds)
    return Exchange(
        model=_plain(completion.model),
        content=content_of(completion),
        deployment=_plain(completion.deployment),
        finish_reason=_finish_name(completion.finish_reason),
        user=_plain(completion.user),
        request_id=_plain(completion.request_id),
        metadata=metadata_of(completion),
        taken=_moment(request.exchange_time) if request.HasField("exchange_time") else None,
    )


def metadata_of(completion: pb.Completion) -> dict[str, str]:
    return _pairs(completion.metadata)


def completion_message(completion: Completion) -> pb.Completion:
    message = _parsed(completion.content, pb.Completion())
    message.name, message.model, message.deployment = completion.name, completion.model, completion.deployment
    message.finish_reason = common_pb2.FinishReason.Value(_PREFIX + (completion.finish_reason or "UNSPECIFIED"))
    message.user, message.request_id, message.etag = completion.user, completion.request_id, completion.etag
    message.metadata.update(completion.metadata)
    message.create_time.CopyFrom(_time(completion.created))
    if completion.expires is not None:
        message.expire_time.CopyFrom(_time(completion.expires))
    return message


def judgement_of(feedback: pb.Feedback) -> Judgement:
    return Judgement(
        value=feedback.value if feedback.HasField("value") else None,
        comment=_plain(feedback.comment),
        correction=_json(feedback.correction) if feedback.HasField("correction") else None,
        author=_plain(feedback.author),
        labels=_pairs(feedback.labels),
    )


def feedback_message(feedback: Feedback) -> pb.Feedback:
    message = pb.Feedback(
        name=feedback.name,
        value=feedback.value,
        comment=feedback.comment,
        author=feedback.author,
        labels=dict(feedback.labels),
        create_time=_time(feedback.created),
    )
    if feedback.correction is not None:
        message.correction.CopyFrom(_parsed(feedback.correction, common_pb2.Message()))
    return message


def policy_message(policy: Policy, bytes_max: int) -> pb.CompletionPolicy:
    return pb.CompletionPolicy(
        name=policy.name,
        retention_days=policy.retention_days,
        sampled_fraction=policy.sampled_fraction,
        redact=policy.redact,
        etag=policy.etag,
        exchange_bytes_max=bytes_max,
    )


def retention_days_of(policy: pb.CompletionPolicy) -> int:
    return policy.retention_days if policy.HasField("retention_days") else RETENTION_DAYS_DEFAULT


def _json(message: Message) -> Content:
    try:
        content: Content = json_format.MessageToDict(message, preserving_proto_field_name=True)
    except json_format.SerializeToJsonError as error:
        raise Invalid("COMPLETION_INVALID", f"The exchange has no form in JSON: {error}.") from error
    return content


def _parsed(content: Content, message: M) -> M:
    """A field that a newer version wrote and this one does not know is left out."""
    return json_format.ParseDict(dict(content), message, ignore_unknown_fields=True, max_recursion_depth=1000)


def _pairs(given: Mapping[str, str]) -> dict[str, str]:
    return {_plain(key): _plain(value) for key, value in given.items()}


def _plain(text: str) -> str:
    """NUL, which PostgreSQL has no place for, becomes the sign for what cannot be shown."""
    return text.replace("\x00", "\ufffd")


def _finish_name(reason: common_pb2.FinishReason.ValueType) -> str:
    """`STOP`; empty where none is said, or one of a newer version."""
    known = common_pb2.FinishReason.values()
    return common_pb2.FinishReason.Name(reason).removeprefix(_PREFIX) if reason and reason in known else ""


def _moment(stamp: Timestamp) -> datetime:
    """Raises Invalid COMPLETION_INVALID."""
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        message = "exchange_time is no moment between the years 1 and 9999."
        fields = [FieldViolation("exchange_time", message, "OUT_OF_RANGE")]
        raise Invalid("COMPLETION_INVALID", message, fields=fields) from error


def _time(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
