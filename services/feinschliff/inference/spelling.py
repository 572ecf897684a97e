"""Scored tokens in the API's words: their text, and their bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feinschliff.inference.scores import TokenScore
from feinschliff.v1 import common_pb2

BYTES_MAX = 256
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_CHARACTER_TOKENS_MAX = 4  # bytes of the longest UTF-8 character, and a token holds one at least

Decode = Callable[[Sequence[int]], str]


def spelled(scores: Sequence[TokenScore], before: Sequence[int], decode: Decode) -> list[common_pb2.TokenLogprob]:
    """What `TokenLogprob` says of each token.

    Args:
        before: tokens that stand before the first one; some decoders treat the first token of a text in their own way.
    """
    found, context, pending = [], list(before[-1:]), list[int]()
    for score in scores:
        text = _behind(context, [score.token_id], decode)
        whole = _behind(context, [*pending, score.token_id], decode) if pending else text
        is_whole = not whole.endswith(_UNFINISHED) or len(pending) == _CHARACTER_TOKENS_MAX - 1
        found.append(
            common_pb2.TokenLogprob(
                token=text,
                token_id=score.token_id,
                logprob=min(0.0, score.logprob),
                utf8=_cut(whole) if is_whole else b"",
                top=[
                    common_pb2.TokenLogprob(
                        token=(other := _behind(context, [one.token_id], decode)),
                        token_id=one.token_id,
                        logprob=min(0.0, one.logprob),
                        utf8=_cut(other),
                    )
                    for one in score.top
                ],
            )
        )
        pending = [] if is_whole else [*pending, score.token_id]
        if is_whole:
            context = [score.token_id]
    return found


def _behind(context: Sequence[int], ids: Sequence[int], decode: Decode) -> str:
    """The text that tokens add behind others."""
    before = decode(context) if context else ""
    whole = decode([*context, *ids])
    return whole[len(before) :] if whole.startswith(before) else decode(ids)


def _cut(text: str) -> bytes:
    return text.encode()[:BYTES_MAX]
