"""Activations that are computed again in the backward pass instead of being kept: less memory, more time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import checkpoint

from feinschliff.kit.errors import Invalid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep only the input of each layer in training, and run the layer again when its gradient is asked for.

    Chen et al. 2016 (arXiv:1604.06174), a checkpoint at each layer. The same numbers as without, dropout included.
    Unlike transformers' own switch this leaves the embeddings' output alone: frozen layers at the bottom are still not
    differentiated.

    Raises:
        Invalid: ARCHITECTURE_UNSUPPORTED.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise Invalid(
            "ARCHITECTURE_UNSUPPORTED",
            "The layers of this base cannot be run a second time, so gradient_checkpointing has no meaning for it.",
            advice=["Set gradient_checkpointing to false, and lower micro_batch_tokens instead."],
            why="no layers that can be recomputed",
        )
    run = partial(checkpoint, use_reentrant=False)
    for layer in layers:
        layer._gradient_checkpointing_func = run
        layer.gradient_checkpointing = True
