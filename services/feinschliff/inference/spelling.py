"""Scored tokens in the API's words: their text, and their bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feinschliff.inference.scores import TokenScore
from feinschliff.v1 import common_pb2

BYTES_MAX = 256
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_CHARACTER_TOKENS_MAX = 4  # bytes of the longest UTF-8 character, and a token holds one at least

Decode = Callable[[Sequence[int]], str]


class Speller:
    """Spells the tokens of a growing text, one after the other.

    Args:
        before: tokens that stand before the first one; some decoders treat the first token of a text in their own way.
    """

    def __init__(self, before: Sequence[int], decode: Decode) -> None:
        self._decode = decode
        self._context = list(before[-1:])
        self._pending: list[int] = []

    def spell(self, score: TokenScore) -> common_pb2.TokenLogprob:
        """What `TokenLogprob` says of the next token."""
        text = self._behind([score.token_id])
        whole = self._behind([*self._pending, score.token_id]) if self._pending else text
        is_whole = not whole.endswith(_UNFINISHED) or len(self._pending) == _CHARACTER_TOKENS_MAX - 1
        top = [
            common_pb2.TokenLogprob(
                token=(other := self._behind([one.token_id])),
                token_id=one.token_id,
                logprob=min(0.0, one.logprob),
                utf8=_cut(other),
            )
            for one in score.top
        ]
        self._pending = [] if is_whole else [*self._pending, score.token_id]
        if is_whole:
            self._context = [score.token_id]
        return common_pb2.TokenLogprob(
            token=text,
            token_id=score.token_id,
            logprob=min(0.0, score.logprob),
            utf8=_cut(whole) if is_whole else b"",
            top=top,
        )

    def _behind(self, ids: Sequence[int]) -> str:
        """The text that tokens add behind those before."""
        before = self._decode(self._context) if self._context else ""
        whole = self._decode([*self._context, *ids])
        return whole[len(before) :] if whole.startswith(before) else self._decode(ids)


def spelled(scores: Sequence[TokenScore], before: Sequence[int], decode: Decode) -> list[common_pb2.TokenLogprob]:
    """What `TokenLogprob` says of each token; `before` as for `Speller`."""
    speller = Speller(before, decode)
    return [speller.spell(score) for score in scores]


def _cut(text: str) -> bytes:
    return text.encode()[:BYTES_MAX]
