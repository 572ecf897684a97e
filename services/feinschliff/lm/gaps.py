"""Filling in the middle: which tokens say where a text has its gap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

_FAMILIES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001 - DeepSeek's own letters
)


class Gap(NamedTuple):
    """Control tokens in the order in which the model was shown them (Bavarian et al. 2022, arXiv:2207.14255: PSM)."""

    prefix_id: int
    suffix_id: int
    middle_id: int

    def around(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """What a model reads that is to say what stands between the two."""
        return [self.prefix_id, *before, self.suffix_id, *after, self.middle_id]


def gap_of(id_of: Callable[[str], int | None]) -> Gap | None:
    """The tokens of a vocabulary for it; None where it has none.

    Args:
        id_of: from a token to its id; None for one that is not in the vocabulary.
    """
    for family in _FAMILIES:
        ids = [found for token in family if (found := id_of(token)) is not None]
        if len(ids) == len(family):
            return Gap(*ids)
    return None
