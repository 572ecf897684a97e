"""The start of adapters over a quantised base: from what rounding took away, as the job's own rows feel it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING

from feinschliff.formats.adaptations import Qlora
from feinschliff.formats.recipe import Recipe
from feinschliff.formats.report import Notice
from feinschliff.lm.adaptations import qera
from feinschliff.lm.adaptations.lora_start import lora_layers
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import FlatBatch, flatten
from feinschliff.lm.quantised_load import plain_weights
from feinschliff.trainer.table import Table

if TYPE_CHECKING:
    from peft import PeftModel

    from feinschliff.trainer.preparation import Attempt, Loaded

TOKENS_MAX = 4096
"""Of the rows that are looked at."""


def starts_from_rounding(recipe: Recipe) -> bool:
    return isinstance(recipe.adaptation, Qlora) and recipe.adaptation.lora.start == "qera"


def start_from_rounding(a: Attempt, loaded: Loaded, model: PeftModel) -> None:
    """Fresh adapters make up for the rounding, and the job's events tell so."""
    batch = calibration(loaded.data.rows, loaded.encoder.cut)
    names = [name for name, _ in lora_layers(model)]
    weight_of = plain_weights(loaded.base.folder, names, model.device)
    qera.start_from_rounding(model, weight_of, batch.to(model.device), seed=a.recipe.seed, check=a.stop.check)
    message = f"The adapters start from what rounding the base took away, as {batch.tokens} tokens of the rows feel it."
    a.post(Notice(key="rounding_start", message=message))


def calibration(rows: Table, cut: Callable[[Encoded, int], Encoded]) -> FlatBatch:
    """Rows from all over the table, as many as fit; the first one in any case, cut where it is too long."""
    lengths = rows.lengths()
    wanted = max(1, min(len(lengths), TOKENS_MAX * len(lengths) // sum(lengths)))
    chosen = [number * len(lengths) // wanted for number in range(wanted)]
    ends = accumulate(lengths[number] for number in chosen)
    fitting = sum(1 for _ in takewhile(lambda end: end <= TOKENS_MAX, ends))
    return flatten([cut(rows[number], TOKENS_MAX) for number in chosen[: max(1, fitting)]])
