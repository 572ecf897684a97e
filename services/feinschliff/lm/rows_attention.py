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
from feinschliff.lm.shared_prefixes import Runs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_ATTENTION = "feinschliff_rows"

TILE_TOKENS_MAX = 256
"""Short runs side by side are attended at once, by plain products, up to here. A longer run takes the fused kernel:
weights of products are kept for the backward pass and grow with the square of a run."""

KeysAndValues = tuple[Tensor, Tensor]


class Tile(NamedTuple):
    """Runs side by side that are attended at once.

    rows: where each begins and the last one ends, from 0 on.
    before: the tiles that all of them continue, the first first.
    """

    rows: tuple[int, ...]
    before: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return self.rows[-1]


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
    by_products = query.device.type == "cpu" and not dropout
    outermost = [] if prefix is None else [_of_layer(prefix, module, key.dtype)]
    cut = tiles(runs, TILE_TOKENS_MAX if by_products else 0)
    sizes = [tile.tokens for tile in cut]
    queries, keys, values = (torch.split(whole, sizes, dim=2) for whole in (query, key, value))
    outputs = []
    for number, tile in enumerate(cut):
        seen = [*outermost, *((keys[one], values[one]) for one in (*tile.before, number))]
        seen_keys, seen_values = seen[0] if len(seen) == 1 else (torch.cat(one, 2) for one in zip(*seen, strict=True))
        given = (queries[number], seen_keys, seen_values)
        if by_products and tile.tokens <= TILE_TOKENS_MAX:
            output = _by_products(*given, tile.rows, scale=scale, window=sliding_window)
        else:
            output = _fused(*given, scale=scale, dropout=dropout, window=sliding_window)
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1), None


@lru_cache(maxsize=64)
def tiles(runs: Runs, tokens_max: int) -> list[Tile]:
    """Runs in their order; neighbours that continue the same ones, and that nothing continues, are together as far as
    `tokens_max` goes."""
    made: list[Tile] = []
    continued = {one for before in runs.before for one in before}
    tile_of: dict[int, int] = {}
    open_to: tuple[int, ...] | None = None  # what the last tile continues, while it may grow
    for run, ((start, stop), before) in enumerate(zip(pairwise(runs.bounds), runs.before, strict=True)):
        end = (made[-1].tokens if made else 0) + stop - start
        if run not in continued and open_to == before and end <= tokens_max:
            made[-1] = made[-1]._replace(rows=(*made[-1].rows, end))
        else:
            made.append(Tile((0, stop - start), tuple(tile_of[one] for one in before)))
        tile_of[run] = len(made) - 1
        open_to = None if run in continued else before
    return made


def _by_products(
    query: Tensor, key: Tensor, value: Tensor, rows: tuple[int, ...], *, scale: float, window: int | None
) -> Tensor:
    """The heads of one key are stacked into one product."""
    _, heads, tokens, width = query.shape
    keys, places = key.shape[1:3]
    mask = _mask(rows, places, window or places, heads // keys, query.dtype)
    stacked = query.reshape(keys, heads // keys * tokens, width)
    weights = torch.baddbmm(mask, stacked, key.squeeze(0).transpose(1, 2), alpha=scale).softmax(dim=-1)
    return torch.bmm(weights, value.squeeze(0)).view(1, heads, tokens, width)


def _fused(query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float, window: int | None) -> Tensor:
    """The last tokens of one row ask, all that it has up to them answer."""
    tokens, places = query.shape[2], key.shape[2]
    plain = tokens == places and (window is None or places <= window)
    groups = query.shape[1] // key.shape[1]
    return F.scaled_dot_product_attention(
        query,
        key.repeat_interleave(groups, dim=1),
        value.repeat_interleave(groups, dim=1),
        attn_mask=None if plain else _seen((0, tokens), places, window or places).to(query.device),
        is_causal=plain,
        scale=scale,
        dropout_p=dropout,
    )


@lru_cache(maxsize=16)  # all layers ask for those of one batch; behind a long prefix one has megabytes
def _mask(rows: tuple[int, ...], places: int, window: int, repeated: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: nothing where a token looks, -inf elsewhere; (repeated x tokens, places)."""
    hidden = ~_seen(rows, places, window)
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf")).repeat(repeated, 1)


def _seen(rows: tuple[int, ...], places: int, window: int) -> Tensor:
    """Which places the tokens of rows side by side attend to; (tokens, places).

    Args:
        rows: their bounds, from 0 on.
        places: those that all rows continue, and then the rows.
        window: a token looks at so many places, its own the last.
    """
    before = places - rows[-1]
    blocks = []
    for start, stop in pairwise(rows):
        place = torch.arange(before + stop - start)
        distance = place[before:, None] - place[None]
        seen = (distance >= 0) & (distance < window)
        block = torch.zeros(stop - start, places, dtype=torch.bool)
        block[:, :before] = seen[:, :before]
        block[:, before + start : before + stop] = seen[:, before:]
        blocks.append(block)
    return torch.cat(blocks)


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
