"""Random noise on the embeddings of a batch while training, which makes tuned models answer better (NEFTune)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def embedding_noise(model: PreTrainedModel, alpha: float, *, seed: int) -> Iterator[None]:
    """Within, every row of a `FlatBatch` meets the model with noise on its tokens' embeddings.

    Each number gets alpha / sqrt(L d) times a draw from the uniform distribution on [-1, 1], with L tokens of the row
    that are put in and d numbers in an embedding (Jain et al. 2023, arXiv:2310.05914, algorithm 1; alpha 5 to 15
    there). Without padding, L is the row's own length, as in the paper.

    The noise of a row follows from `seed` and the row's tokens alone, so that it is the same in any micro-batch and
    any process. Vectors that an adaptation puts before the input get none.

    Args:
        alpha: 0 changes nothing.
    """
    if not alpha:
        yield
        return
    bounds: list[tuple[int, ...]] = []

    def remember(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        bounds[:] = [named["runs"].bounds]

    def disturb(module: nn.Module, inputs: tuple[Tensor, ...], output_1TH: Tensor) -> Tensor:
        return output_1TH + noise(inputs[0][0], bounds[0], output_1TH.shape[-1], alpha=alpha, seed=seed).to(output_1TH)

    hooks = [
        model.base_model.register_forward_pre_hook(remember, prepend=True, with_kwargs=True),
        model.get_input_embeddings().register_forward_hook(disturb),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def noise(token_ids_T: Tensor, bounds: tuple[int, ...], width: int, *, alpha: float, seed: int) -> Tensor:
    """The noise of a batch, fp32 on the CPU, (T, H)."""
    rows = [token_ids_T[start:stop] for start, stop in pairwise(bounds)]
    return torch.cat([_row_noise(row.tolist(), width, alpha, seed) for row in rows])


def _row_noise(token_ids: list[int], width: int, alpha: float, seed: int) -> Tensor:
    content = hashlib.sha256(repr((seed, token_ids)).encode()).digest()
    random = torch.Generator().manual_seed(int.from_bytes(content[:8]) % 2**63)
    drawn_LH = torch.rand(len(token_ids), width, generator=random)
    scale = alpha / (len(token_ids) * width) ** 0.5
    return drawn_LH.mul_(2 * scale).sub_(scale)
