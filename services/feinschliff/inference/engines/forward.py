"""The passes of a model: read a part of one prompt, one more token for every row of a batch, states of whole texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from feinschliff.inference.engines.cache import BatchCache, MaskMaker, parts_of
from feinschliff.inference.engines.parts import Opening


class Forward:
    """A causal language model behind its own `forward`; logits only at the last position.

    A prompt is always read alone and in the same parts, so its numbers do not depend on the batch.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: nn.Module = model
        self._stack: nn.Module = model.base_model
        self._device = model.device
        self._masks = MaskMaker(model.config.get_text_config())

    def prefill(self, token_ids: Sequence[int], cache: DynamicCache) -> Tensor:
        """Reads the next tokens of a prompt into `cache`; the logits after the last one, (V,)."""
        return self._logits_BV([list(token_ids)], past_key_values=cache)[0]

    def decode(self, token_ids: Sequence[int], cache: BatchCache) -> Tensor:
        """Reads one token per row into `cache`; the logits after each, (B, V)."""
        cache.begin_step()
        logits_BV = self._logits_BV(
            [[token] for token in token_ids],
            past_key_values=cache,
            position_ids=cache.positions_B[:, None],
            attention_mask=self._masks(cache.positions_B),
        )
        cache.end_step()
        return logits_BV

    def read_vectors(self, vectors_VH: Tensor) -> Opening:
        """What a row begins with that has read these inputs: they stand first, so nothing after changes them."""
        cache = DynamicCache()
        self._stack(inputs_embeds=vectors_VH[None], past_key_values=cache, use_cache=True)
        return Opening(tuple(parts_of(cache, "keys")), tuple(parts_of(cache, "values")))

    def last_states(self, rows: Sequence[Sequence[int]], opening: Opening | None) -> Tensor:
        """Hidden states behind the last token of each text, (B, H).

        Shorter texts are filled up behind their end, where a causal model does not look.
        """
        ids_BT = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for place, row in enumerate(rows):
            ids_BT[place, : len(row)] = torch.tensor(row)
        cache = cache_with(opening, rows=len(rows))
        states_BTH = self._stack(
            input_ids=ids_BT.to(self._device), past_key_values=cache, use_cache=True
        ).last_hidden_state
        last_B = torch.tensor([len(row) - 1 for row in rows], device=self._device)
        return cast(Tensor, states_BTH[torch.arange(len(rows), device=self._device), last_B])

    def _logits_BV(self, token_ids: list[list[int]], **inputs: Any) -> Tensor:
        ids_BT = torch.tensor(token_ids, device=self._device)
        logits: Tensor = self._model(input_ids=ids_BT, use_cache=True, logits_to_keep=1, **inputs).logits
        return logits[:, -1]


def cache_with(opening: Opening | None, *, rows: int = 1) -> DynamicCache:
    """An empty cache, or one in which every row has begun with the same."""
    cache = DynamicCache()
    if opening is not None:
        for layer, (keys, values) in enumerate(zip(opening.keys, opening.values, strict=True)):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache
