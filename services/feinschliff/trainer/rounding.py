"""The start of adapters over a quantised base: from what rounding took away, as the job's own rows feel it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def start_from_rounding(
    a: Attempt, loaded: Loaded, model: PeftModel, numbers: Sequence[int] | None = None, *, task: str = ""
) -> None:
    """Fresh adapters make up for the rounding, and the job's events tell so.

    Args:
        numbers: rows that the adapters learn from; None: all.
        task: whose adapters they are, where it has its own.
    """
    batch = calibration(loaded.data.rows, loaded.encoder.cut, numbers)
    names = [name for name, _ in lora_layers(model)]
    weight_of = plain_weights(loaded.base.folder, names, model.device)
    qera.start_from_rounding(model, weight_of, batch.to(model.device), seed=a.recipe.seed, check=a.stop.check)
    message = f"The adapters start from what rounding the base took away, as {batch.tokens} tokens of the rows feel it."
    a.post(Notice(key="/".join(["rounding_start", *filter(None, [task])]), message=message))


def calibration(rows: Table, cut: Callable[[Encoded, int], Encoded], numbers: Sequence[int] | None = None) -> FlatBatch:
    """Rows from all over the table, as many as fit; the first one in any case, cut where it is too long.

    Args:
        numbers: of the rows that may be taken; None: all.
    """
    numbers = range(len(rows)) if numbers is None else numbers
    lengths = [rows.tokens_of(number) for number in numbers]
    wanted = max(1, min(len(lengths), TOKENS_MAX * len(lengths) // sum(lengths)))
    chosen = [place * len(lengths) // wanted for place in range(wanted)]
    ends = accumulate(lengths[place] for place in chosen)
    fitting = sum(1 for _ in takewhile(lambda end: end <= TOKENS_MAX, ends))
    return flatten([cut(rows[numbers[place]], TOKENS_MAX) for place in chosen[: max(1, fitting)]])
