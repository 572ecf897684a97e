"""The calls that continue a text as it is, without a chat template."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import NamedTuple

from feinschliff.formats.records import Message
from feinschliff.inference import conversation as words
from feinschliff.inference import inputs, judging
from feinschliff.inference.answers import Answers
from feinschliff.inference.callers import caller_of
from feinschliff.inference.chatting import Chatting, Prepared, begun, gathered
from feinschliff.inference.engine import Engine, GenerationRequest
from feinschliff.inference.guards.guarding import Guarded, Guards
from feinschliff.inference.guards.proto import from_finding
from feinschliff.inference.life import Sampling
from feinschliff.inference.models import Granted, Models
from feinschliff.inference.proto import Asked, refuse_unserved
from feinschliff.inference.recorder import Entry, Recorder, as_chat, refuse_foreign, refuse_unloggable
from feinschliff.inference.requests import generation, refuse, sampling_violations, unknown_biases
from feinschliff.inference.scores import ScoringRequest, TokenScore
from feinschliff.inference.several import drawn_apart
from feinschliff.inference.spelling import spelled
from feinschliff.inference.wishes import Wishes, read_sampling, read_wishes, wish_violations
from feinschliff.kit.errors import FieldViolation, Refusal, WrongState
from feinschliff.kit.threads import offload
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb

BEST_OF_MAX = 20


class _Drawn(NamedTuple):
    """How tokens are drawn, what is told of them, and how many continuations are drawn."""

    sampling: Sampling
    wishes: Wishes
    best_of: int


class _Begun(NamedTuple):
    """Continuations that run, what is kept of them, the text that stands before them, and how likely its tokens are."""

    chat: Chatting
    guarded: Guarded
    echoed: str
    entry: Entry | None
    prompt_logprobs: list[common_pb2.TokenLogprob]


class Completions:
    """Continues texts."""

    def __init__(self, models: Models, answers: Answers, guards: Guards, recorder: Recorder) -> None:
        self._recorder = recorder
        self._guards = guards
        self._models = models
        self._answers = answers

    async def whole(self, request: pb.CompleteRequest, seconds_left: float | None) -> pb.CompleteResponse:
        """As many continuations as asked for, the likeliest where more are drawn.

        Raises:
            Invalid: REQUEST_INVALID, TOKEN_ID_UNKNOWN, CONTEXT_LENGTH_EXCEEDED, SCHEMA_UNSUPPORTED.
            Unserved: FIELD_UNSERVED.
            WrongState: NOT_A_CHAT_MODEL, INFILL_UNSUPPORTED.
        """
        with self._counting_refusals():
            _read_wishes(request, "", "sampling")
            caller = caller_of(request)
            granted = await self._models.grant(request.model, seconds_left=seconds_left, caller=caller)
        return await self.on(granted, request, seconds_left=seconds_left)

    async def on(
        self,
        granted: Granted,
        request: pb.CompleteRequest,
        path: str = "",
        sampling_path: str = "sampling",
        *,
        seconds_left: float | None,
        as_turn: bool = False,
    ) -> pb.CompleteResponse:
        """The same on what is granted already; its lease is given back.

        Args:
            as_turn: the text is a user's turn, and its answer is what continues it.
        """
        try:
            drawn = _read_wishes(request, path, sampling_path)
        except BaseException:
            granted.lease.give_back()
            raise
        chat, guarded, echoed, entry, before = await self._begin(
            granted, request, drawn, path, sampling_path, seconds_left, as_turn=as_turn
        )
        async with aclosing(chat.deltas()) as deltas:
            choices = await gathered(deltas)
        if drawn.best_of > drawn.wishes.answers:
            choices = sorted(choices, key=_likelihood, reverse=True)[: drawn.wishes.answers]
        first, usage = choices[0], chat.usage
        name = await entry.keep(first.finish_reason, usage, first.message) if entry else ""
        return pb.CompleteResponse(
            identity=words.from_identity(granted.identity),
            choices=[
                pb.CompletionChoice(
                    index=place,
                    text=echoed + "".join(part.text for part in choice.message.parts),
                    finish_reason=choice.finish_reason,
                    logprobs=choice.logprobs if drawn.wishes.logprobs is not None else [],
                    prompt_logprobs=before,
                )
                for place, choice in enumerate(choices)
            ],
            usage=usage,
            guards=map(from_finding, guarded.findings),
            completion=name,
        )

    async def stream(
        self, request: pb.CompleteRequest, seconds_left: float | None
    ) -> AsyncGenerator[pb.CompleteStreamResponse]:
        """The same in pieces, all that is drawn; refused as `whole` is, with paths below `complete`."""
        with self._counting_refusals():
            drawn = _read_wishes(request, "complete.", "complete.sampling", in_pieces=True)
            caller = caller_of(request, "complete.")
            granted = await self._models.grant(request.model, seconds_left=seconds_left, caller=caller)
        chat, guarded, echoed, entry, before = await self._begin(
            granted, request, drawn, "complete.", "complete.sampling", seconds_left
        )
        reason = common_pb2.FINISH_REASON_UNSPECIFIED
        async with begun(chat.deltas()) as (first, deltas):
            yield pb.CompleteStreamResponse(identity=words.from_identity(granted.identity))
            for index in range(drawn.wishes.answers if echoed else 0):
                repeated = pb.CompleteDelta(index=index, text=echoed, prompt_logprobs=before)
                yield pb.CompleteStreamResponse(delta=repeated)
            delta = await first
            while delta is not None:
                reason = delta.finish_reason if delta.index == 0 and delta.finish_reason else reason
                if entry:
                    entry.hear(delta)
                yield pb.CompleteStreamResponse(
                    delta=pb.CompleteDelta(
                        index=delta.index,
                        text=delta.text,
                        logprobs=delta.logprobs,
                        finish_reason=delta.finish_reason,
                    )
                )
                delta = await anext(deltas, None)
        name = await entry.keep(reason, chat.usage) if entry else ""
        found = map(from_finding, guarded.findings)
        end = pb.StreamEnd(finish_reason=reason, usage=chat.usage, guards=found, completion=name)
        yield pb.CompleteStreamResponse(end=end)

    async def _begin(
        self,
        granted: Granted,
        request: pb.CompleteRequest,
        drawn: _Drawn,
        path: str,
        sampling_path: str,
        seconds_left: float | None,
        *,
        as_turn: bool = False,
    ) -> _Begun:
        """What is refused gives the lease back."""
        try:
            with self._counting_refusals():
                engine, wishes = granted.lease.engine, drawn.wishes
                if facts := engine.head(granted.lease.adapter_digest):
                    raise judging.not_a_chat_model(request.model, facts)
                refuse(unknown_biases(drawn.sampling, engine.facts.vocabulary_tokens, sampling_path))
                deployment = granted.deployment
                refuse_foreign(request, f"projects/{deployment.project}", path)
                guarded = self._guards.over(
                    deployment.spec.guards,
                    deployment.name,
                    skip=request.skip_guards,
                    seconds_left=seconds_left,
                    on_hit=granted.lease.call.guard_hit,
                )
                guarded.refuse_scores(wishes.logprobs is not None, f"{sampling_path}.logprobs")
                ids, text = await _prompt(request, granted, guarded, path, as_turn=as_turn)
                echoed = text if request.echo else ""
                wanted = generation(
                    ids,
                    drawn.sampling,
                    deployment.spec.defaults,
                    granted.version,
                    context_tokens=granted.context_tokens,
                    answer_tokens=granted.answer_tokens,
                    logprobs=0 if drawn.best_of > wishes.answers and wishes.logprobs is None else wishes.logprobs,
                    grammar=await offload(engine.grammar, wishes.form) if wishes.form else None,
                )
                before = await _prompt_logprobs(engine, wanted) if echoed and wishes.logprobs is not None else []
            entry = None if request.suffix else self._recorder.begin(as_chat(request, text), granted)
        except BaseException:
            granted.lease.give_back()
            raise
        chat = Chatting(Prepared(granted, guarded, drawn_apart(wanted, drawn.best_of)), self._answers)
        return _Begun(chat, guarded, echoed, entry, before)

    @contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except Refusal:
            self._answers.count_refused()
            raise


def _read_wishes(request: pb.CompleteRequest, path: str, sampling_path: str, *, in_pieces: bool = False) -> _Drawn:
    """
    Raises:
        Invalid: REQUEST_INVALID.
        Unserved: FIELD_UNSERVED.
    """
    refuse_unloggable(request, path)
    refuse_unserved([Asked(f"{path}store", request.store and bool(request.suffix))])  # a gap is no conversation
    sampling = read_sampling(request.sampling)
    wrong = [*sampling_violations(sampling, sampling_path), *wish_violations(request.sampling, sampling_path)]
    wishes = read_wishes(request.sampling, sampling_path)
    best_of = request.best_of if request.HasField("best_of") else wishes.answers
    most = wishes.answers if in_pieces else max(BEST_OF_MAX, wishes.answers)
    if not wishes.answers <= best_of <= most:
        rule = f"best_of must be {wishes.answers} (n) to {most}, not {best_of}; a stream shows all that is drawn."
        wrong.append(FieldViolation(f"{path}best_of", rule, "OUT_OF_RANGE"))
    if request.echo and request.suffix and wishes.logprobs is not None:
        rule = "The tokens of a text with a gap have no log-probabilities; leave out echo, suffix or logprobs."
        wrong.append(FieldViolation(f"{path}echo", rule, "UNFIT"))
    refuse(wrong)
    return _Drawn(sampling, wishes, best_of)


async def _prompt_logprobs(engine: Engine, wanted: GenerationRequest) -> list[common_pb2.TokenLogprob]:
    """Of all tokens of a prompt; the first has 0, for nothing stands before it."""
    ids, scores = wanted.prompt_ids, list[TokenScore]()
    if len(ids) > 1:
        asked = ScoringRequest(ids, 1, wanted.adapter_digest, wanted.logprobs or 0)
        scores = await asyncio.wrap_future(engine.score(asked))
    decode = partial(engine.decode, skip_special_tokens=False)
    return await offload(spelled, [TokenScore(ids[0], 0.0), *scores], [], decode)


def _likelihood(choice: pb.ChatChoice) -> float:
    """Natural logarithm, per token."""
    return math.fsum(one.logprob for one in choice.logprobs) / max(1, len(choice.logprobs))


class _Prompt(NamedTuple):
    """What the model reads, and the same as a text."""

    token_ids: list[int]
    text: str


async def _prompt(
    request: pb.CompleteRequest, granted: Granted, guarded: Guarded, path: str, *, as_turn: bool
) -> _Prompt:
    engine, suffix_path = granted.lease.engine, f"{path}suffix"
    match request.WhichOneof("input"):
        case "text":
            path += "text"
            text = await guarded.admit_text(request.text, path)
            turns = [Message(role="user", content=text)]
            ids = await offload(engine.encode_chat, turns) if as_turn else await offload(engine.encode_text, text)
        case "tokens":
            path += "tokens.ids"
            ids = list(request.tokens.ids)
            inputs.refuse_unknown_ids(ids, engine.facts.vocabulary_tokens, path)
            said = await offload(engine.decode, ids, skip_special_tokens=False)
            text = await guarded.admit_text(said, path)
            ids = ids if text == said else await offload(engine.encode_text, text)
        case _:
            raise inputs.missing_input(f"{path}text")
    inputs.refuse_wordless(ids, path)
    if request.suffix:
        ids = await _around_a_gap(request, granted, await guarded.admit_text(request.suffix, suffix_path), ids)
    inputs.refuse_full(len(ids), granted.context_tokens, path)
    return _Prompt(ids, text)


async def _around_a_gap(request: pb.CompleteRequest, granted: Granted, after: str, before: list[int]) -> list[int]:
    """Raises WrongState INFILL_UNSUPPORTED where the model cannot fill in the middle."""
    engine = granted.lease.engine
    gap = engine.facts.gap
    if gap is None:
        raise WrongState(
            "INFILL_UNSUPPORTED",
            f"{request.model} cannot fill in the middle: its tokenizer has no tokens for it.",
            advice=["Leave out the suffix, or name a model that was trained to fill in the middle."],
            model=request.model,
        )
    return gap.around(before, await offload(engine.encode_text, after))
