"""One request on its way through the batch: what it has read, what it has said, and whether it is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from transformers.cache_utils import DynamicCache

from feinschliff.inference.engine import Delta, Done, Emit, Event, Finish, GenerationRequest
from feinschliff.lm.sampling import Sampler, TextStream

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Row:
    """Only the engine's thread moves it; `is_aborted` may be set by any."""

    request: GenerationRequest
    emit: Emit
    sampler: Sampler
    text: TextStream
    stop_ids: Collection[int]
    virtual_tokens: int = 0  # positions that its adapter has in use before the prompt
    cache: DynamicCache = field(default_factory=DynamicCache)
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
        sampler = Sampler(temperature=request.temperature, top_p=request.top_p, seed=request.seed)
        return cls(request, emit, sampler, TextStream(decode, request.stop), {*stop_ids, *request.stop_token_ids})

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

    def forget_cache(self) -> None:
        """Its keys and values lie in the batch's cache now, or are not needed any more."""
        self.cache = DynamicCache()

    def accept(self, token: int) -> None:
        """Takes the next token and tells what it means to the one who asked."""
        self.last_token = token
        self.completion_tokens += 1
        if token in self.stop_ids:
            self.finish(Finish.STOP, self.text.flush().text)
            return
        text, stopped = self.text.push(token)
        if stopped:
            self.finish(Finish.STOP, text)
        elif self.completion_tokens == self.request.max_tokens:
            rest = self.text.flush()
            self.finish(Finish.STOP if rest.stopped else Finish.LENGTH, text + rest.text)
        else:
            self.tell(Delta(text))

    @property
    def is_done(self) -> bool:
        return self.done is not None

    def finish(self, finish: Finish, text: str = "", *, error: str = "") -> None:
        """Takes the row out of the running; `tell_done` follows once its place is free."""
        if self.done is None:
            self.done = Done(finish, self.completion_tokens, text, error)

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
