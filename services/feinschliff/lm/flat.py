"""Batches without padding: rows one after another in a single sequence, with attention strictly inside each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from feinschliff.kit.errors import Invalid
from feinschliff.lm.chat import Encoded
from feinschliff.lm.lower import Below, taken_as_given

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_ATTENTION = "feinschliff_rows"

PRODUCT_ROW_TOKENS_MAX = 256
"""Longer rows take the fused kernel: the weights kept for the backward pass grow with the square of the row."""

PROOF_ROW_TOKENS = 6
PROOF_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}
"""Largest difference of hidden states against the row alone, relative to their largest value."""


@dataclass(frozen=True)
class FlatBatch:
    """Rows side by side; T tokens in all, N of them predicted.

    The last token of a row is only ever a label, so it is no input. `below` is what the lowest layers make of the
    batch, where that is known already.
    """

    token_ids_T: Tensor
    position_ids_T: Tensor
    row_bounds: tuple[int, ...]
    label_positions_N: Tensor
    labels_N: Tensor
    row_targets: tuple[tuple[float, ...], ...] = ()
    """Of each row, where a head judges it; see `Encoded`."""
    below: Below | None = None

    @property
    def tokens(self) -> int:
        return self.row_bounds[-1]

    @property
    def labels(self) -> int:
        return len(self.labels_N)

    def to(self, device: torch.device) -> FlatBatch:
        return FlatBatch(
            self.token_ids_T.to(device),
            self.position_ids_T.to(device),
            self.row_bounds,
            self.label_positions_N.to(device),
            self.labels_N.to(device),
            self.row_targets,
        )


def flatten(rows: Sequence[Encoded]) -> FlatBatch:
    """Rows of at least two tokens as one batch; positions restart at 0 in each row."""
    token_ids: list[int] = []
    positions: list[int] = []
    label_positions: list[int] = []
    labels: list[int] = []
    bounds = [0]
    for row in rows:
        inputs = len(row.token_ids) - 1
        for i in range(inputs):
            if row.is_answer[i + 1]:
                label_positions.append(bounds[-1] + i)
                labels.append(row.token_ids[i + 1])
        token_ids += row.token_ids[:-1]
        positions += range(inputs)
        bounds.append(bounds[-1] + inputs)
    return FlatBatch(
        torch.tensor(token_ids),
        torch.tensor(positions),
        tuple(bounds),
        torch.tensor(label_positions, dtype=torch.long),
        torch.tensor(labels, dtype=torch.long),
        tuple(row.targets for row in rows),
    )


def hidden_states(model: PreTrainedModel, batch: FlatBatch) -> Tensor:
    """Last hidden state of every input token, (T, H); call inside `rows_apart(model)`."""
    with taken_as_given(batch.below):
        output = model.base_model(
            input_ids=batch.token_ids_T[None],
            position_ids=batch.position_ids_T[None],
            use_cache=False,
            row_bounds=batch.row_bounds,
        )
    states: Tensor = output.last_hidden_state[0]
    return states


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
    row_bounds: tuple[int, ...] | None = None,
    prefix: Sequence[tuple[Tensor, Tensor]] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each row; shapes (1, heads, T, d) in, (1, T, heads, d) out.

    Args:
        prefix: keys and values of each layer that stand before every row, (1, key heads, P, d).
    """
    unsupported = [name for name in ("softcap", "s_aux", "position_bias") if rest.get(name) is not None]
    if unsupported or attention_mask is not None:
        raise _unsupported(f"its attention uses {', '.join(unsupported) or 'a mask of its own'}")
    if row_bounds is None:
        raise _unsupported("its layers do not pass the rows' bounds on to their attention")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    outputs = []
    for start, stop in pairwise(row_bounds):
        row = (query[:, :, start:stop], key[:, :, start:stop], value[:, :, start:stop])
        if prefix is not None:
            before = prefix[_layer_of(module)]
            outputs.append(_attend_behind(before, *row, scale=scale, dropout=dropout, window=sliding_window))
            continue
        windowed = sliding_window is not None and stop - start > sliding_window
        if _products_win(query, stop - start) and not windowed and not dropout:
            outputs.append(_attend_by_products(*row, scale=scale))
        else:
            outputs.append(_attend(*row, scale=scale, dropout=dropout, window=sliding_window if windowed else None))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _products_win(query: Tensor, tokens: int) -> bool:
    """Short bf16 rows on a CPU: plain products take 9 ms a layer where the fused kernel takes 22 (8 rows of 129)."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and tokens <= PRODUCT_ROW_TOKENS_MAX


def _attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float, window: int | None) -> Tensor:
    mask = None if window is None else _window_mask(query.shape[2], window, query.device)
    return _attend_masked(query, key, value, mask, scale=scale, dropout=dropout)


def _attend_behind(
    prefix: tuple[Tensor, Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    dropout: float,
    window: int | None,
) -> Tensor:
    """A row whose tokens see P keys more, which stand at the P places before its first one."""
    keys, values = (part.to(key.dtype) for part in prefix)
    places = keys.shape[2] + key.shape[2]
    mask = _window_mask(places, window or places, key.device)[keys.shape[2] :]
    together = (torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2))
    return _attend_masked(query, *together, mask, scale=scale, dropout=dropout)


def _attend_masked(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float, dropout: float
) -> Tensor:
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


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    """The same, with the heads of one key stacked into one product and the softmax in fp32."""
    _, heads, tokens, width = query.shape
    keys = key.shape[1]
    stacked = (keys, heads // keys * tokens, width)
    scores = torch.bmm(query[0].reshape(stacked), key[0].transpose(1, 2)).float().mul_(scale)
    scores = scores.view(keys, heads // keys, tokens, tokens).masked_fill_(_future(tokens), float("-inf"))
    weights = scores.softmax(dim=-1).to(value.dtype).view(keys, -1, tokens)
    return torch.bmm(weights, value[0]).view(1, heads, tokens, width)


@lru_cache(maxsize=PRODUCT_ROW_TOKENS_MAX)
def _future(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool).triu_(1)


def prove_rows_apart(model: PreTrainedModel) -> None:
    """Show on two short rows that this architecture keeps rows apart and computes what it computes row by row.

    Raises:
        Invalid: ARCHITECTURE_UNSUPPORTED.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise _unsupported("its attention cannot be exchanged")
    first, second, other = (_proof_row(model, k) for k in (0, 1, 2))
    with torch.no_grad():
        with rows_apart(model):
            together = _states(model, [first, second])
            neighbour_changed = _states(model, [other, second])
        alone = model.base_model(
            input_ids=torch.tensor([second.token_ids[:-1]], device=model.device), use_cache=False
        ).last_hidden_state[0]
    inputs = PROOF_ROW_TOKENS - 1
    if not torch.equal(together[inputs:], neighbour_changed[inputs:]):
        raise _unsupported("one row of a batch changes another")
    difference = (together[inputs:] - alone).abs().max() / alone.abs().max()
    if difference > PROOF_TOLERANCE[alone.dtype]:
        raise _unsupported(f"rows side by side differ from the row alone by {difference:.1e}")


def _proof_row(model: PreTrainedModel, k: int) -> Encoded:
    vocabulary = int(model.config.get_text_config().vocab_size)
    return Encoded([(31 * k + 7 * i + 3) % vocabulary for i in range(PROOF_ROW_TOKENS)], [True] * PROOF_ROW_TOKENS)


def _states(model: PreTrainedModel, rows: Sequence[Encoded]) -> Tensor:
    return hidden_states(model, flatten(rows).to(model.device))


def _layer_of(attention: torch.nn.Module) -> int:
    number = getattr(attention, "layer_idx", None)
    if number is None:
        raise _unsupported("its attention does not know its layer")
    return int(number)


def _window_mask(tokens: int, window: int, device: torch.device) -> Tensor:
    place = torch.arange(tokens, device=device)
    distance = place[:, None] - place[None]
    return (distance >= 0) & (distance < window)


def _unsupported(why: str) -> Invalid:
    return Invalid(
        "ARCHITECTURE_UNSUPPORTED",
        f"This base cannot be trained on batches without padding: {why}.",
        advice=["Take a decoder-only base with ordinary attention, such as Llama, Qwen, Mistral or SmolLM."],
        why=why,
    )
