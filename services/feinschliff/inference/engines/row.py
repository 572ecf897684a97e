"""One request on its way through the batch: what it has read, what it has said, and whether it is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from feinschliff.inference.engine import Delta, Done, Emit, Event, Finish, GenerationRequest
from feinschliff.inference.engines.grammars import Grammar, Writing
from feinschliff.inference.engines.lookup import Lookup
from feinschliff.inference.scores import TokenScore
from feinschliff.lm.penalties import Weights
from feinschliff.lm.sampling import Sampler, TextStream

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Row:
    """Only the engine's thread moves it; `is_aborted` may be set by any."""

    request: GenerationRequest
    emit: Emit
    sampler: Sampler
    text: TextStream
    writing: Writing | None  # where the answer must have a form
    stop_ids: Collection[int]
    virtual_tokens: int = 0  # positions that its adapter has in use before the prompt
    cache: object | None = None  # of its prompt, the decoder's affair, until it has joined the batch
    cached_tokens: int = 0  # of the prompt, that were read for another one
    lookup: Lookup | None = None  # where its next tokens may be drafted
    last_token: int = -1
    completion_tokens: int = 0
    is_aborted: bool = False
    done: Done | None = None

    @classmethod
    def of(
        cls,
        request: GenerationRequest,
        emit: Emit,
        *,
        decode: Callable[[Sequence[int]], str],
        stop_ids: Collection[int],
    ) -> Row:
        text, stops = TextStream(decode, request.stop), {*stop_ids, *request.stop_token_ids}
        return cls(request, emit, _sampler(request), text, _writing(request), stops)

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def tenant(self) -> str:
        return self.request.tenant

    @property
    def is_background(self) -> bool:
        return self.request.is_background

    @property
    def tokens_max(self) -> int:
        return self.virtual_tokens + self.prompt_tokens + self.request.max_tokens

    def look_up(self) -> None:
        """From now on its next tokens may be drafted."""
        self.lookup = Lookup([*self.request.prompt_ids, self.last_token])

    def forget_cache(self) -> None:
        """Its keys and values are the batch's now, or are not needed any more."""
        self.cache = None

    def accept(self, token: int, score: TokenScore | None = None) -> None:
        """Takes the next token and tells what it means to the one who asked."""
        self.last_token = token
        self.completion_tokens += 1
        if self.lookup is not None:
            self.lookup.add(token)
        if token in self.stop_ids:
            self.finish(Finish.STOP, self.text.flush().text, score=score)
            return
        text, stopped = self.text.push(token)
        if stopped:
            self.finish(Finish.STOP, text, score=score)
        elif self._is_written(token):
            self.finish(Finish.STOP, text + self.text.flush().text, score=score)
        elif self.completion_tokens == self.request.max_tokens:
            rest = self.text.flush()
            self.finish(Finish.STOP if rest.stopped else Finish.LENGTH, text + rest.text, score=score)
        else:
            self.tell(Delta(text, score))

    def _is_written(self, token: int) -> bool:
        """Whether the form of the answer lets nothing follow."""
        if self.writing is None:
            return False
        self.writing.accept(token)
        return self.writing.is_complete

    @property
    def is_done(self) -> bool:
        return self.done is not None

    def finish(
        self,
        finish: Finish,
        text: str = "",
        *,
        error: str = "",
        score: TokenScore | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        """Takes the row out of the running; `tell_done` follows once its place is free."""
        if self.done is None:
            tokens, cached = self.completion_tokens, self.cached_tokens
            self.done = Done(finish, tokens, text, error, cached, score, retry_after_seconds)

    def tell_done(self) -> None:
        if self.done is not None:
            self.tell(self.done)

    def tell(self, event: Event) -> None:
        """A listener that is gone ends its own request and nobody else's."""
        try:
            self.emit(event)
        except Exception:
            self.is_aborted = True
            logger.warning("the receiver of a generation failed", exc_info=True)


def _writing(request: GenerationRequest) -> Writing | None:
    if request.grammar is None:
        return None
    assert isinstance(request.grammar, Grammar)
    return request.grammar.begin()


def _sampler(request: GenerationRequest) -> Sampler:
    return Sampler(
        temperature=request.temperature,
        seed=request.seed,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        weights=Weights(
            repetition=request.repetition_penalty,
            frequency=request.frequency_penalty,
            presence=request.presence_penalty,
            bias=request.logit_bias,
        ),
        prompt_ids=request.prompt_ids,
    )
