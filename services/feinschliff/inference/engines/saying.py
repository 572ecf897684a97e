"""The next token of every row of a step, chosen from its logits, and how likely the model found it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from feinschliff.inference.engine import Finish
from feinschliff.inference.engines.row import Row
from feinschliff.inference.scores import Likely, TokenScore
from feinschliff.lm.sampling import choose_tokens

logger = logging.getLogger(__name__)


def say(rows: Sequence[Row], logits_BV: Tensor, likeliest_B: Sequence[int]) -> None:
    """Each row takes its next token; one that cannot take any fails, and no other.

    Args:
        likeliest_B: as `sampling.likeliest` finds them.
    """
    allowed_B = [_allowed(row, logits_BV.shape[1]) for row in rows]
    problems = list(map(_problem, rows, (token >= 0 for token in likeliest_B), allowed_B))
    able = [place for place, problem in enumerate(problems) if not problem]
    if len(able) < len(rows):
        for row, problem in zip(rows, problems, strict=True):
            if problem:
                row.finish(Finish.FAILED, error=problem)
        rows, logits_BV = [rows[place] for place in able], logits_BV[able]
        allowed_B, likeliest_B = [allowed_B[place] for place in able], [likeliest_B[place] for place in able]
    if not rows:
        return
    tokens = choose_tokens(logits_BV, [row.sampler for row in rows], allowed_B, likeliest_B)
    for row, token, score in zip(rows, tokens, _scores(rows, logits_BV, tokens), strict=True):
        try:
            row.accept(token, score)
        except Exception as error:
            logger.exception("a token could not be told")
            row.finish(Finish.FAILED, error=type(error).__name__)


def say_drafted(
    rows: Sequence[Row], drafts: Sequence[Sequence[int]], logits_NV: Tensor, likeliest_N: Sequence[int]
) -> list[int]:
    """As `say`, and each row goes on saying while what it takes is what was drafted: its logits are there already.

    Args:
        logits_NV: of each row those behind its last token, then those behind each token of its draft.

    Returns:
        How many tokens of each draft held: the row said them, and something behind them.
    """
    starts = list(accumulate((1 + len(draft) for draft in drafts), initial=0))
    held, going, depth = [0] * len(rows), list(range(len(rows))), 0
    while going:
        at = [starts[place] + depth for place in going]
        say([rows[place] for place in going], logits_NV[at], [likeliest_N[token] for token in at])
        going = [place for place in going if _goes_on(rows[place], drafts[place], depth)]
        depth += 1
        for place in going:
            held[place] = depth
    return held


def _goes_on(row: Row, draft: Sequence[int], depth: int) -> bool:
    """Whether what a row has just said stands in its draft at `depth`, and the next token can be said."""
    return depth < len(draft) and row.last_token == draft[depth] and not (row.is_done or row.is_aborted)


def _allowed(row: Row, vocabulary: int) -> NDArray[np.bool_] | None:
    """Which tokens may come next; None is any, and none at all where the form cannot be asked."""
    if row.writing is None:
        return None
    try:
        return row.writing.allowed(vocabulary)
    except Exception:
        logger.exception("a form could not be asked")
        return np.zeros(vocabulary, np.bool_)


def _problem(row: Row, is_finite: bool, allowed_V: NDArray[np.bool_] | None) -> str:
    """Why a row cannot go on; empty where it can."""
    if not is_finite:
        return "the model's numbers are not finite"
    if allowed_V is not None and not allowed_V.any():
        return f"the form of the answer cannot be followed further: {row.writing.error if row.writing else ''}"
    return ""


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
