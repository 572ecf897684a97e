"""Whole texts through a model's own forward pass, beside those who chat: scores of tokens, and vectors of texts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import DynamicCache

from feinschliff.inference.engines.deck import Deck
from feinschliff.inference.engines.decks import Decks
from feinschliff.inference.engines.forward import cache_with
from feinschliff.inference.scores import Likely, ScoringRequest, TokenScore
from feinschliff.kit.errors import Exhausted, Internal, Unavailable, WrongState

LOGITS_BYTES_MAX = 64 * 1024 * 1024
"""fp32 logits held at once; about 340 positions of a vocabulary of 49,152."""

_RETRY_SECONDS = 1.0


@dataclass(eq=False)
class _Scoring:
    """One text on its way: its keys and values so far, and the scores so far."""

    request: ScoringRequest
    future: Future[list[TokenScore]] = field(default_factory=Future)
    cache: DynamicCache | None = None
    read: int = 0
    scores: list[TokenScore] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """The last token is only ever looked for, never read."""
        return self.read == len(self.request.token_ids) - 1


class Scorings:
    """The texts that are to be scored: one is read at a time, a part between two steps, so only one holds a cache.

    `offer` may be called from any thread; `turn` and `close` only from the engine's.

    Args:
        again: puts `turn` into the engine's queue.
        part_tokens: read in one turn at most.
        waiting_max: texts that may wait or be read.
    """

    def __init__(
        self, decks: Decks, again: Callable[[Callable[[], None]], None], *, part_tokens: int, waiting_max: int
    ) -> None:
        self._decks = decks
        self._again = again
        self._part_tokens = part_tokens
        self._waiting_max = waiting_max
        self._lock = threading.Lock()
        self._scorings: deque[_Scoring] = deque()

    def offer(self, request: ScoringRequest) -> Future[list[TokenScore]]:
        """Its scores, once it has been read; cancelling the future ends it before its next part.

        Raises:
            Exhausted: QUEUE_FULL.
        """
        scoring = _Scoring(request)
        with self._lock:
            waiting = sum(not one.future.cancelled() for one in self._scorings)
            if waiting >= self._waiting_max:
                message = f"{waiting} texts wait to be scored already; try again in {_RETRY_SECONDS:g} s."
                raise Exhausted("QUEUE_FULL", message, retry_after_seconds=_RETRY_SECONDS, waiting=waiting)
            self._scorings.append(scoring)
            if len(self._scorings) == 1:
                self._again(self.turn)
        return scoring.future

    def turn(self) -> None:
        """Reads the next part of the first text, and comes again while there is more."""
        with self._lock:
            while self._scorings and self._scorings[0].future.cancelled():
                self._scorings.popleft()
            scoring = self._scorings[0] if self._scorings else None
        if scoring is None:
            return
        is_over = True
        try:
            self._read(scoring)
            is_over = scoring.is_done
        except Exception as error:
            _settle(scoring, error)
        else:
            if is_over:
                _settle(scoring)
        with self._lock:
            if is_over:
                self._scorings.popleft()
            if self._scorings:
                self._again(self.turn)

    def close(self) -> None:
        """Refuses what has not been read to its end."""
        with self._lock:
            left = list(self._scorings)
            self._scorings.clear()
        for scoring in left:
            message = "This model is being unloaded."
            _settle(scoring, Unavailable("ENGINE_CLOSED", message, retry_after_seconds=_RETRY_SECONDS))

    def _read(self, scoring: _Scoring) -> None:
        request, digest = scoring.request, scoring.request.adapter_digest
        if digest and digest not in self._decks:
            raise WrongState("ADAPTER_NOT_LOADED", f"Adapter {digest} is not loaded.", adapter=digest)
        deck = self._decks.holding(digest)
        opening = deck.turn_to(digest, rows=1)
        cache = scoring.cache = scoring.cache or cache_with(opening)
        start, read_only = scoring.read, request.first - 1 - scoring.read
        if read_only > 0:
            scoring.read += min(read_only, self._part_tokens)
            _states_BTH(deck, [request.token_ids[start : scoring.read]], cache)
            return
        tokens = max(1, min(self._part_tokens, LOGITS_BYTES_MAX // (4 * _vocabulary(deck))))
        scoring.read = min(len(request.token_ids) - 1, start + tokens)
        ids_BT = torch.tensor([request.token_ids[start : scoring.read]], device=deck.model.device)
        logits_TV: Tensor = deck.model(input_ids=ids_BT, past_key_values=cache, use_cache=True).logits[0]
        labels = request.token_ids[start + 1 : scoring.read + 1]
        scoring.scores += scores_of(logits_TV, labels, request.top_logprobs)


def vectors(deck: Deck, rows: Sequence[Sequence[int]], digest: str, dimensions: int) -> list[list[float]]:
    """The mean over each text's own tokens of the states behind the last layer, in fp32, cut and of length 1.

    Raises:
        Internal: GENERATION_FAILED for numbers that are not finite.
    """
    cache = cache_with(deck.turn_to(digest, rows=len(rows)), rows=len(rows))
    states_BTH = _states_BTH(deck, rows, cache).float()
    lengths_B = torch.tensor([len(row) for row in rows], device=states_BTH.device)
    own_BT = torch.arange(states_BTH.shape[1], device=states_BTH.device) < lengths_B[:, None]
    mean_BH = torch.einsum("bth,bt->bh", states_BTH, own_BT.float()) / lengths_B[:, None]
    vectors_BD = torch.nn.functional.normalize(mean_BH[:, :dimensions], dim=-1)
    refuse_broken(vectors_BD)
    return cast(list[list[float]], vectors_BD.tolist())


def dimensions_of(config: PreTrainedConfig) -> Sequence[int]:
    """Lengths that vectors of this model may have, the whole one last: fewer where it learned to be cut so.

    Kusupati et al. 2022 (arXiv:2205.13147); `matryoshka_dimensions` and `is_matryoshka` are the names in use.
    """
    whole = int(config.get_text_config().hidden_size)
    if named := getattr(config, "matryoshka_dimensions", None):
        return sorted({*(int(one) for one in named if 0 < int(one) < whole), whole})
    return range(1, whole + 1) if getattr(config, "is_matryoshka", False) else (whole,)


def scores_of(logits_TV: Tensor, labels: Sequence[int], top: int) -> list[TokenScore]:
    """log p of each label, and of the `top` likeliest tokens at its place; natural logarithm, in fp32.

    Raises:
        Internal: GENERATION_FAILED for numbers that are not finite.
    """
    logprobs_TV = torch.log_softmax(logits_TV.float(), dim=-1)
    labels_T1 = torch.tensor(labels, device=logits_TV.device)[:, None]
    chosen_T = logprobs_TV.gather(1, labels_T1)[:, 0]
    refuse_broken(chosen_T)
    values_TK, ids_TK = logprobs_TV.topk(min(top, logprobs_TV.shape[-1]), dim=-1)
    likely = (
        tuple(Likely(token, value) for token, value in zip(ids, values, strict=True))
        for ids, values in zip(ids_TK.tolist(), values_TK.tolist(), strict=True)
    )
    return [TokenScore(*one) for one in zip(labels, chosen_T.tolist(), likely, strict=True)]


def refuse_broken(numbers: Tensor) -> None:
    """Raises Internal GENERATION_FAILED for numbers that are not finite."""
    if not bool(numbers.isfinite().all()):
        raise Internal("GENERATION_FAILED", "The engine failed on the way: the model's numbers are not finite.")


def _states_BTH(deck: Deck, rows: Sequence[Sequence[int]], cache: DynamicCache) -> Tensor:
    """Hidden states behind every token; shorter rows are filled up behind their end, where a causal model does not
    look."""
    ids_BT = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for place, row in enumerate(rows):
        ids_BT[place, : len(row)] = torch.tensor(row)
    inputs = {"input_ids": ids_BT.to(deck.model.device), "past_key_values": cache, "use_cache": True}
    states: Tensor = deck.model.base_model(**inputs).last_hidden_state
    return states


def _vocabulary(deck: Deck) -> int:
    return int(deck.model.config.get_text_config().vocab_size)


def _settle(scoring: _Scoring, error: Exception | None = None) -> None:
    scoring.cache = None
    if not scoring.future.set_running_or_notify_cancel():
        return
    if error is None:
        scoring.future.set_result(scoring.scores)
    else:
        scoring.future.set_exception(error)
