"""Which tokens say where a text has its gap."""

from __future__ import annotations

import pytest

from feinschliff.lm.gaps import gap_of

STARCODER = {"<fim_prefix>": 4, "<fim_middle>": 5, "<fim_suffix>": 6}
QWEN = {"<|fim_prefix|>": 14, "<|fim_middle|>": 15, "<|fim_suffix|>": 16}


@pytest.mark.parametrize(
    ("vocabulary", "expected"),
    [(STARCODER, [4, 1, 2, 6, 3, 5]), (QWEN, [14, 1, 2, 16, 3, 15]), (STARCODER | QWEN, [14, 1, 2, 16, 3, 15])],
)
def test_a_model_reads_prefix_and_suffix_and_then_says_the_middle(
    vocabulary: dict[str, int], expected: list[int]
) -> None:
    gap = gap_of(vocabulary.get)
    assert gap is not None
    assert gap.around([1, 2], [3]) == expected


def test_half_the_tokens_are_none() -> None:
    assert gap_of({"<fim_prefix>": 4, "<fim_suffix>": 6}.get) is None
    assert gap_of({}.get) is None
