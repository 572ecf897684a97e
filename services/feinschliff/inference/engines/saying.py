"""The next token of every row of a step, chosen from its logits, and how likely the model found it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from feinschliff.inference.engine import Finish
from feinschliff.inference.engines.row import Row
from feinschliff.inference.scores import Likely, TokenScore
from feinschliff.lm.sampling import choose_tokens


def say(rows: Sequence[Row], logits_BV: Tensor) -> None:
    """Each row takes its next token; one whose logits are no numbers fails, and no other."""
    usable = [place for place, is_finite in enumerate(logits_BV.amax(-1).isfinite().tolist()) if is_finite]
    if len(usable) < len(rows):
        for row in (row for place, row in enumerate(rows) if place not in usable):
            row.finish(Finish.FAILED, error="the model's numbers are not finite")
        rows, logits_BV = [rows[place] for place in usable], logits_BV[usable]
    if not rows:
        return
    tokens = choose_tokens(logits_BV, [row.sampler for row in rows])
    for row, token, score in zip(rows, tokens, _scores(rows, logits_BV, tokens), strict=True):
        row.accept(token, score)


def _scores(rows: Sequence[Row], logits_BV: Tensor, tokens: Sequence[int]) -> list[TokenScore | None]:
    """Log-probabilities under softmax(logits) as the model made them; computed for the rows that ask."""
    scores: list[TokenScore | None] = [None] * len(rows)
    asking = [place for place, row in enumerate(rows) if row.request.logprobs is not None]
    if not asking:
        return scores
    for place, logps_V in zip(asking, logits_BV[asking].float().log_softmax(-1), strict=True):
        likeliest = logps_V.topk(min(rows[place].request.logprobs or 0, logps_V.numel()))
        top = sorted(zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True), key=_best_first)
        found = tuple(Likely(token, logprob) for logprob, token in top)
        scores[place] = TokenScore(tokens[place], float(logps_V[tokens[place]]), found)
    return scores


def _best_first(one: tuple[float, int]) -> tuple[float, int]:
    return -one[0], one[1]
