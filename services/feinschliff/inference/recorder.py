"""Which exchanges are kept, under which name, and their way into the spool; an answer never waits long for it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import orjson
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from feinschliff.formats.exchanges import content_bytes, content_of, may_exceed
from feinschliff.formats.records import Message
from feinschliff.inference.life import Deployment, Spec
from feinschliff.inference.models import Granted
from feinschliff.inference.policies import Policies
from feinschliff.inference.proto import timestamp
from feinschliff.inference.spool import Dropped, Spool
from feinschliff.kit import context, names
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import offload
from feinschliff.v1 import common_pb2, inference_pb2
from feinschliff.v1 import ingestion_pb2 as pb

log = logging.getLogger(__name__)
COMPLETION = "projects/{project}/completions/{completion}"
ID_PREFIX = "chatcmpl-"  # the same id is shown over HTTP, where clients look at it
WAIT_SECONDS = 0.05  # the longest that an answer waits for a slow disk; the record is on its way then
METADATA_PAIRS_MAX, METADATA_KEY_MAX, METADATA_VALUE_MAX, USER_MAX = 16, 64, 512, 64


class Kept(NamedTuple):
    """What an exchange is stored as."""

    project: str
    completion: str

    def __str__(self) -> str:
        return COMPLETION.format(project=self.project, completion=self.completion)


@dataclass
class _Call:
    """A tool call, while it is streamed."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    def part(self) -> common_pb2.Part:
        call = common_pb2.ToolCall(id=self.id, name=self.name)
        try:
            parsed = orjson.loads(self.arguments or "{}")
            call.arguments.CopyFrom(json_format.ParseDict(parsed, Struct()))
        except (ValueError, json_format.ParseError):
            call.ClearField("arguments")
            call.invalid_arguments = self.arguments
        return common_pb2.Part(tool_call=call)


def turn_of(message: Message) -> common_pb2.Message:
    """A turn as the API has it."""
    role = common_pb2.Role.Value(f"ROLE_{message.role.upper()}")
    text = message.content or ""
    if message.tool_call_id is not None:
        result = common_pb2.ToolResult(tool_call_id=message.tool_call_id, text=text)
        return common_pb2.Message(role=role, parts=[common_pb2.Part(tool_result=result)], name=message.name or "")
    parts = [common_pb2.Part(text=text)] if message.content is not None else []
    for call in message.tool_calls or []:
        function = call["function"]
        parts.append(_Call(call["id"], function["name"], function["arguments"]).part())
    return common_pb2.Message(role=role, parts=parts, name=message.name or "")


@dataclass
class Heard:
    """A streamed answer, put together again; of several answers the first."""

    text: list[str] = field(default_factory=list)
    calls: dict[int, _Call] = field(default_factory=dict)

    def add(self, delta: inference_pb2.ChatDelta) -> None:
        if delta.index:
            return
        if delta.text:
            self.text.append(delta.text)
        if delta.HasField("tool_call"):
            piece = delta.tool_call
            call = self.calls.setdefault(piece.index, _Call())
            call.id, call.name = call.id or piece.id, call.name or piece.name
            call.arguments += piece.arguments_text

    def message(self) -> common_pb2.Message:
        parts = [common_pb2.Part(text="".join(self.text))] if self.text or not self.calls else []
        parts += [self.calls[index].part() for index in sorted(self.calls)]
        return common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, parts=parts)


class Recorder:
    """Begins an entry with each call; what becomes of it is decided then, so that a stream can say its name."""

    def __init__(
        self,
        spool: Spool,
        policies: Policies,
        metrics: Metrics,
        *,
        clock: Clock,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self._spool = spool
        self._policies = policies
        self._draw = draw
        self._spooled = metrics.counter("feinschliff_inference_completions_spooled_total")
        self._dropped = metrics.counter("feinschliff_inference_completions_dropped_total")
        self._bytes = metrics.gauge("feinschliff_inference_completion_spool_bytes")

    def begin(
        self, request: inference_pb2.ChatRequest, granted: Granted, masked: Sequence[Message] | None = None
    ) -> Entry:
        """The entry of a call that is answered by `granted`; the request's fields for the log are checked already.

        Args:
            masked: the conversation as guards left it: what they took out is not remembered either.
        """
        kept, spec = named(request, granted.deployment), granted.deployment.spec
        share = max(spec.stored_fraction, self._policies.fraction(kept.project))
        is_wanted = is_kept(request, spec, share, self._draw())
        return Entry(self, kept if is_wanted else None, request, granted, masked)

    async def store(self, kept: Kept, completion: pb.Completion, began: datetime | None = None) -> str:
        """The name once it survives this process; empty where it cannot be kept, which is counted.

        Args:
            began: when the exchange was; None: now.
        """
        request = pb.RecordCompletionRequest(
            parent=f"projects/{kept.project}",
            completion_id=kept.completion,
            completion=completion,
            request_id=kept.completion,
            exchange_time=timestamp(began or self.clock.now()),
        )
        try:
            await self._refuse_too_large(completion)
            written = asyncio.wrap_future(self._spool.append(request.SerializeToString()))
            done, _ = await asyncio.wait({written}, timeout=WAIT_SECONDS)
            if done:
                written.result()
            else:
                written.add_done_callback(self._late)
        except Dropped as dropped:
            self._lost(dropped)
            return ""
        self._spooled.inc()
        self._bytes.set(self._spool.size_bytes)
        return str(kept)

    async def _refuse_too_large(self, completion: pb.Completion) -> None:
        """What the log would not take has no name to be told: it is not kept, and nobody looks for it there.

        Raises:
            Dropped: `too_large`.
        """
        most = self._policies.exchange_bytes_max
        if may_exceed(completion, most):
            try:
                size = content_bytes(await offload(content_of, completion))
            except Invalid as error:
                raise Dropped("refused", error.message) from error
            if size > most:
                raise Dropped("too_large", f"{size} bytes of JSON are more than the {most} that the log takes")

    def _late(self, written: asyncio.Future[None]) -> None:
        error = None if written.cancelled() else written.exception()
        if isinstance(error, Dropped):
            self._lost(error)

    def _lost(self, dropped: Dropped) -> None:
        self._dropped.labels(dropped.reason).inc()
        log.error("an exchange is not kept", extra={"why": dropped.reason, "told": str(dropped)})


class Entry:
    """What is heard of one call until it ends; one that is not kept hears nothing."""

    def __init__(
        self,
        recorder: Recorder,
        kept: Kept | None,
        request: inference_pb2.ChatRequest,
        granted: Granted,
        masked: Sequence[Message] | None,
    ) -> None:
        self._masked = masked
        self._recorder = recorder
        self._kept = kept
        self._request = request
        self._deployment = granted.deployment.name
        self._identity = common_pb2.Identity(**granted.identity._asdict())
        self._began, self._began_at = time.monotonic(), recorder.clock.now()
        self._heard = Heard()

    def hear(self, delta: inference_pb2.ChatDelta) -> None:
        """A piece of a streamed answer."""
        if self._kept is not None:
            self._heard.add(delta)

    async def keep(
        self,
        finish: common_pb2.FinishReason.ValueType,
        usage: common_pb2.TokenUsage,
        message: common_pb2.Message | None = None,
    ) -> str:
        """The name that the exchange has in the log; empty where it is not kept.

        Args:
            message: the answer; absent where it was streamed.
        """
        if self._kept is None:
            return ""
        asked = self._request
        completion = pb.Completion(
            model=asked.model,
            deployment=self._deployment,
            identity=self._identity,
            messages=asked.messages if self._masked is None else map(turn_of, self._masked),
            tools=asked.tools,
            sampling=asked.sampling if asked.HasField("sampling") else None,
            response=self._heard.message() if message is None else message,
            finish_reason=finish,
            usage=usage,
            latency_seconds=time.monotonic() - self._began,
            metadata=dict(asked.metadata),
            request_id=context.current_request_id()[:64],
            user=asked.user,
        )
        return await self._recorder.store(self._kept, completion, self._began_at)


def is_kept(request: inference_pb2.ChatRequest, spec: Spec, share: float, draw: float) -> bool:
    """A deployment that refuses has the last word, then the caller, then the dice."""
    if spec.refuse_store:
        return False
    return request.store if request.HasField("store") else draw < share


def named(request: inference_pb2.ChatRequest, deployment: Deployment) -> Kept:
    """The name that the caller gives, or else a new one in the project of the deployment that answers."""
    if request.completion:
        return Kept(**names.parse(COMPLETION, request.completion, field="completion"))
    return Kept(deployment.project, names.new_id(ID_PREFIX))


def as_chat(request: inference_pb2.CompleteRequest, text: str) -> inference_pb2.ChatRequest:
    """A text that is continued, as the conversation that is kept of it: the text is a user's turn."""
    turn = common_pb2.Message(role=common_pb2.ROLE_USER, parts=[common_pb2.Part(text=text)])
    return inference_pb2.ChatRequest(
        model=request.model,
        messages=[turn],
        sampling=request.sampling if request.HasField("sampling") else None,
        metadata=dict(request.metadata),
        store=request.store if request.HasField("store") else None,
        user=request.user,
        completion=request.completion,
    )


def refuse_unloggable(request: inference_pb2.ChatRequest | inference_pb2.CompleteRequest, path: str) -> None:
    """What the log could not take later is refused at once, whether it is kept or not.

    Raises:
        Invalid: REQUEST_INVALID, NAME_MALFORMED, PROJECT_MISMATCH.
    """
    wrong = []
    pairs = request.metadata
    if (
        len(pairs) > METADATA_PAIRS_MAX
        or any(not 1 <= len(key) <= METADATA_KEY_MAX for key in pairs)
        or any(len(value) > METADATA_VALUE_MAX for value in pairs.values())
    ):
        told = (
            f"At most {METADATA_PAIRS_MAX} pairs of metadata; keys have 1 to {METADATA_KEY_MAX} characters,"
            f" values at most {METADATA_VALUE_MAX}."
        )
        wrong.append(FieldViolation(f"{path}metadata", told, "OUT_OF_RANGE"))
    if len(request.user) > USER_MAX:
        told = f"user has at most {USER_MAX} characters, not {len(request.user)}."
        wrong.append(FieldViolation(f"{path}user", told, "OUT_OF_RANGE"))
    if wrong:
        raise Invalid("REQUEST_INVALID", " ".join(one.description for one in wrong), fields=wrong)
    if request.completion:
        names.parse(COMPLETION, request.completion, field=f"{path}completion")
        refuse_foreign(request, request.project, path)


def refuse_foreign(request: inference_pb2.ChatRequest | inference_pb2.CompleteRequest, project: str, path: str) -> None:
    """Nobody writes into another project's log.

    Args:
        project: of the call or of the deployment that answers, `projects/{project}`; empty where it is not known yet.

    Raises:
        Invalid: PROJECT_MISMATCH.
    """
    if not project or not request.completion or request.completion.startswith(f"{project}/"):
        return
    message = f"{path}completion is not in {project}, whose call this is: {request.completion}."
    raise Invalid(
        "PROJECT_MISMATCH",
        message,
        fields=[FieldViolation(f"{path}completion", message, "PROJECT_MISMATCH")],
        completion=request.completion,
        project=project,
    )
