"""Attention inside the rows of a batch without padding, as transformers' models call it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from feinschliff.kit.errors import Invalid
from feinschliff.lm.shared_prefixes import TILE_TOKENS_MAX, Runs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_ATTENTION = "feinschliff_rows"

KeysAndValues = tuple[Tensor, Tensor]


class Form(NamedTuple):
    """How layers attend; those of one form share tiles and masks.

    virtual: places before every row. window: places that a token looks at, its own the last; None: all.
    groups: heads of one key.
    """

    virtual: int
    window: int | None
    groups: int
    dtype: torch.dtype
    device: torch.device
    by_products: bool


class Tile(NamedTuple):
    """Runs side by side that are attended at once.

    before: the tiles that all of them continue, the first first.
    mask: see `_mask`; None where each token sees all up to its own.
    """

    tokens: int
    before: tuple[int, ...]
    by_products: bool
    mask: Tensor | None


@contextmanager
def rows_apart(model: PreTrainedModel) -> Iterator[None]:
    """Within, the model attends inside the rows of a `FlatBatch` only."""
    register()
    usual = model.config._attn_implementation
    model.set_attn_implementation(ROWS_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def register() -> None:
    """Make the attention known to transformers; harmless when done again."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ROWS_ATTENTION, rows_attention)


def rows_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    runs: Runs | None = None,
    prefix: Sequence[KeysAndValues] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each run to itself and to those before it; shapes (1, heads, T, d) in, (1, T, heads, d) out.

    Args:
        prefix: keys and values of each layer that stand before every row, (1, key heads, P, d).
    """
    unsupported = [name for name in ("softcap", "s_aux", "position_bias") if rest.get(name) is not None]
    if unsupported or attention_mask is not None:
        raise architecture_unsupported(f"its attention uses {', '.join(unsupported) or 'a mask of its own'}")
    if runs is None:
        raise architecture_unsupported("its layers do not pass the rows' bounds on to their attention")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    form = Form(
        virtual=0 if prefix is None else prefix[0][0].shape[2],
        window=sliding_window,
        groups=query.shape[1] // key.shape[1],
        dtype=query.dtype,
        device=query.device,
        by_products=query.device.type == "cpu" and not dropout,
    )
    outermost = [] if prefix is None else [_of_layer(prefix, module, key.dtype)]
    cut = tiles(runs, form)
    sizes = [tile.tokens for tile in cut]
    queries, keys, values = (torch.split(whole, sizes, dim=2) for whole in (query, key, value))
    outputs = []
    for number, tile in enumerate(cut):
        seen = [*outermost, *((keys[one], values[one]) for one in (*tile.before, number))]
        seen_keys, seen_values = seen[0] if len(seen) == 1 else (torch.cat(one, 2) for one in zip(*seen, strict=True))
        given = (queries[number], seen_keys, seen_values)
        if tile.by_products:
            output = _by_products(*given, tile.mask, scale=scale)
        else:
            output = _fused(*given, tile.mask, scale=scale, dropout=dropout)
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1), None


@lru_cache(maxsize=4)
def tiles(runs: Runs, form: Form) -> list[Tile]:
    """The runs of a batch as all layers of a form attend them, masks included."""
    made = []
    for rows, before, places_before in _neighbours(runs, form):
        places = form.virtual + places_before + rows[-1]
        by_products = form.by_products and rows[-1] * places <= TILE_TOKENS_MAX**2
        plain = rows[-1] == places and (form.window is None or places <= form.window) and not by_products
        mask = None if plain else _mask(rows, places, form, additive=by_products)
        made.append(Tile(rows[-1], before, by_products, mask))
    return made


def _neighbours(runs: Runs, form: Form) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Runs in their order; neighbours that continue the same ones, and that nothing continues, are together as far as
    their products may be large: where each begins and the last one ends, the tiles before, and the places of those."""
    made: list[tuple[tuple[int, ...], tuple[int, ...], int]] = []
    continued = {one for before in runs.before for one in before}
    tile_of: dict[int, int] = {}
    lengths = [stop - start for start, stop in pairwise(runs.bounds)]
    open_to: tuple[int, ...] | None = None  # what the last tile continues, while it may grow
    for run, (tokens, before) in enumerate(zip(lengths, runs.before, strict=True)):
        places = sum(lengths[one] for one in before)
        end = (made[-1][0][-1] if made else 0) + tokens
        fits = form.by_products and end * (form.virtual + places + end) <= TILE_TOKENS_MAX**2
        if run not in continued and open_to == before and fits:
            made[-1] = ((*made[-1][0], end), *made[-1][1:])
        else:
            made.append(((0, tokens), tuple(tile_of[one] for one in before), places))
        tile_of[run] = len(made) - 1
        open_to = None if run in continued else before
    return made


def _by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float) -> Tensor:
    """The heads of one key are stacked into one product."""
    assert mask is not None, "products see the future unless they are told not to"
    _, heads, tokens, width = query.shape
    keys = key.shape[1]
    stacked = query.reshape(keys, heads // keys * tokens, width)
    weights = torch.baddbmm(mask, stacked, key.squeeze(0).transpose(1, 2), alpha=scale).softmax(dim=-1)
    return torch.bmm(weights, value.squeeze(0)).view(1, heads, tokens, width)


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float, dropout: float) -> Tensor:
    """The last tokens of one row ask, all that it has up to them answer."""
    groups = query.shape[1] // key.shape[1]
    return F.scaled_dot_product_attention(
        query,
        key.repeat_interleave(groups, dim=1),
        value.repeat_interleave(groups, dim=1),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        dropout_p=dropout,
    )


def _mask(rows: tuple[int, ...], places: int, form: Form, *, additive: bool) -> Tensor:
    """Which places the tokens of rows side by side attend to; (tokens, places). For products what is added to the
    scores of the heads of one key, 0 or -inf; (heads of a key x tokens, places).

    Args:
        rows: their bounds, from 0 on.
        places: those that all rows continue, and then the rows.
    """
    before = places - rows[-1]
    window = form.window or places
    seen = torch.zeros(rows[-1], places, dtype=torch.bool)
    for start, stop in pairwise(rows):
        place = torch.arange(before + stop - start)
        distance = place[before:, None] - place[None]
        own = (distance >= 0) & (distance < window)
        seen[start:stop, :before] = own[:, :before]
        seen[start:stop, before + start : before + stop] = own[:, before:]
    if not additive:
        return seen.to(form.device)
    added = torch.zeros(seen.shape, dtype=form.dtype).masked_fill_(~seen, float("-inf"))
    return added.repeat(form.groups, 1).to(form.device)


def _of_layer(prefix: Sequence[KeysAndValues], attention: torch.nn.Module, dtype: torch.dtype) -> KeysAndValues:
    number = getattr(attention, "layer_idx", None)
    if number is None:
        raise architecture_unsupported("its attention does not know its layer")
    keys, values = prefix[int(number)]
    return keys.to(dtype), values.to(dtype)


def architecture_unsupported(why: str) -> Invalid:
    return Invalid(
        "ARCHITECTURE_UNSUPPORTED",
        f"This base cannot be trained on batches without padding: {why}.",
        advice=["Take a decoder-only base with ordinary attention, such as Llama, Qwen, Mistral or SmolLM."],
        why=why,
    )
