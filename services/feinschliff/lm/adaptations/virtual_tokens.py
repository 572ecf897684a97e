"""Virtual tokens before every row: learned vectors that the layers read, or learned keys and values in each of them.

Both work on batches without padding, on padded ones and with a cache of keys and values; what comes out has the places
of the real tokens alone. Real tokens stand behind the virtual ones: their positions start at as many as those are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feinschliff.lm.shared_prefixes import Runs

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

KeysAndValues = tuple[tuple[Tensor, Tensor], ...]
"""For each layer, the lowest first: keys and values before the first token, each (1, key heads, P, d)."""


def prepend_vectors(model: PreTrainedModel, vectors: Callable[[], Tensor]) -> None:
    """Let the layers read learned vectors as if they were the embeddings of tokens before each row.

    Args:
        vectors: asked in every pass; (P, H).
    """
    backbone: Any = model.base_model
    compute = backbone.forward

    def forward(
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **rest: Any,
    ) -> Any:
        embedded_BTH = backbone.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        vectors_PH = vectors().to(embedded_BTH.dtype)
        count = len(vectors_PH)
        positions = None if position_ids is None else position_ids + count
        runs: Runs | None = rest.pop("runs", None)
        if runs is not None:
            assert positions is not None, "rows side by side always say their positions"
            rest["runs"] = longer = _longer(runs, count)
            places_T = _places(runs, longer).to(embedded_BTH.device)
            embedded_BTH = _before_rows(embedded_BTH, vectors_PH[None], runs)
            positions = _before_rows(positions, torch.arange(count, device=positions.device)[None], runs)
        elif _is_empty(past_key_values):
            places_T = torch.arange(count, count + embedded_BTH.shape[1], device=embedded_BTH.device)
            embedded_BTH = torch.cat([vectors_PH.expand(len(embedded_BTH), -1, -1), embedded_BTH], dim=1)
            if positions is not None:
                first = torch.arange(count, device=positions.device).expand(len(positions), -1)
                positions = torch.cat([first, positions], dim=1)
        else:
            places_T = torch.arange(embedded_BTH.shape[1], device=embedded_BTH.device)
        output = compute(
            inputs_embeds=embedded_BTH,
            attention_mask=_longer_mask(attention_mask, count),
            position_ids=positions,
            past_key_values=past_key_values,
            **rest,
        )
        output.last_hidden_state = output.last_hidden_state.index_select(1, places_T)
        return output

    backbone.forward = forward


def prepend_keys_and_values(model: PreTrainedModel, prefix: Callable[[], KeysAndValues]) -> None:
    """Let every layer attend to learned keys and values besides those of each row's own tokens.

    Args:
        prefix: asked in every pass.
    """
    from transformers import DynamicCache

    backbone: Any = model.base_model
    compute = backbone.forward

    def forward(
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        **rest: Any,
    ) -> Any:
        layers = prefix()
        count = layers[0][0].shape[2]
        if "runs" in rest:
            rest["prefix"] = layers
        elif _is_empty(past_key_values):
            past_key_values = DynamicCache(config=model.config) if past_key_values is None else past_key_values
            rows = len(rest["inputs_embeds"] if input_ids is None else input_ids)
            _fill(past_key_values, layers, rows=rows, dtype=model.dtype)
        return compute(
            input_ids=input_ids,
            attention_mask=_longer_mask(attention_mask, count),
            position_ids=None if position_ids is None else position_ids + count,
            past_key_values=past_key_values,
            **rest,
        )

    backbone.forward = forward


def _fill(cache: Cache, layers: KeysAndValues, *, rows: int, dtype: torch.dtype) -> None:
    for number, pair in enumerate(layers):
        keys, values = (part.to(dtype).expand(rows, -1, -1, -1) for part in pair)
        cache.update(keys, values, number)


def _is_empty(cache: Cache | None) -> bool:
    return cache is None or cache.get_seq_length() == 0


def _before_rows(tokens: Tensor, virtual: Tensor, runs: Runs) -> Tensor:
    """Runs side by side along axis 1; those that begin rows have the virtual ones before them."""
    pieces: list[Tensor] = []
    for (start, stop), before in _each(runs):
        pieces += [tokens[:, start:stop]] if before else [virtual, tokens[:, start:stop]]
    return torch.cat(pieces, dim=1)


def _longer(runs: Runs, count: int) -> Runs:
    lengths = [stop - start + (0 if before else count) for (start, stop), before in _each(runs)]
    return Runs((0, *accumulate(lengths)), runs.before)


def _places(runs: Runs, longer: Runs) -> Tensor:
    """Where the real tokens stand among the virtual ones; (T,)."""
    real = [stop - start for (start, stop), _ in _each(runs)]
    return torch.cat([torch.arange(stop - own, stop) for own, stop in zip(real, longer.bounds[1:], strict=True)])


def _each(runs: Runs) -> Iterator[tuple[tuple[int, int], tuple[int, ...]]]:
    return zip(pairwise(runs.bounds), runs.before, strict=True)


def _longer_mask(mask: Tensor | None, count: int) -> Tensor | None:
    return None if mask is None else torch.cat([mask.new_ones(len(mask), count), mask], dim=1)
