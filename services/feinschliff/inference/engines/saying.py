"""The next token of every row of a step, chosen from its logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from feinschliff.inference.engine import Finish
from feinschliff.inference.engines.row import Row
from feinschliff.lm.sampling import choose_tokens


def say(rows: Sequence[Row], logits_BV: Tensor) -> None:
    """Each row takes its next token; one whose logits are no numbers fails, and no other."""
    usable = [place for place, is_finite in enumerate(logits_BV.amax(-1).isfinite().tolist()) if is_finite]
    if len(usable) < len(rows):
        for row in (row for place, row in enumerate(rows) if place not in usable):
            row.finish(Finish.FAILED, error="the model's numbers are not finite")
        rows, logits_BV = [rows[place] for place in usable], logits_BV[usable]
    if rows:
        for row, token in zip(rows, choose_tokens(logits_BV, [row.sampler for row in rows]), strict=True):
            row.accept(token)
