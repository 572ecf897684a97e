"""The two passes of a model: read a part of one prompt, and one more token for every row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from feinschliff.inference.engines.cache import BatchCache, MaskMaker


class Forward:
    """A causal language model behind its own `forward`; logits only at the last position.

    A prompt is always read alone and in the same parts, so its numbers do not depend on the batch.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: nn.Module = model
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

    def _logits_BV(self, token_ids: list[list[int]], **inputs: Any) -> Tensor:
        ids_BT = torch.tensor(token_ids, device=self._device)
        logits: Tensor = self._model(input_ids=ids_BT, use_cache=True, logits_to_keep=1, **inputs).logits
        return logits[:, -1]
