"""Which texts are read together before a head."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.formats.heads import HeadFacts
from feinschliff.inference.conversation import classification
from feinschliff.inference.judging import passes, refuse_lengths, refuse_texts
from feinschliff.kit.errors import Invalid


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60), limit=st.integers(1, 400))
def test_every_text_is_read_once_and_passes_stay_within_their_limit(lengths: list[int], limit: int) -> None:
    found = passes(lengths, limit)
    assert sorted(place for together in found for place in together) == list(range(len(lengths)))
    for together in found:
        assert len(together) == 1 or len(together) * max(lengths[place] for place in together) <= limit


def test_what_stands_before_every_text_counts_against_a_pass() -> None:
    assert [len(together) for together in passes([3] * 50, 200, virtual_tokens=7)] == [20, 20, 10]


def test_texts_of_like_length_are_read_together() -> None:
    assert passes([100, 3, 90, 4, 5], 200) == [[1, 3, 4], [2, 0]]


@pytest.mark.parametrize(("texts", "top", "field"), [([], 0, "texts"), (["x"] * 2049, 0, "texts"), (["x"], -1, "top")])
def test_bounds_of_a_call(texts: list[str], top: int, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        refuse_texts(texts, top)
    assert [one.field for one in refused.value.fields] == [field]


def test_a_text_may_be_as_long_as_the_context_and_no_longer() -> None:
    refuse_lengths([1, 64], 64)
    with pytest.raises(Invalid) as refused:
        refuse_lengths([1, 65, 70], 64)
    assert [one.field for one in refused.value.fields] == ["texts[1]", "texts[2]"]


def test_the_likeliest_class_comes_first_and_equals_in_the_heads_order() -> None:
    facts = HeadFacts(kind="classify", classes=["a", "b", "c"])
    assert [one.label for one in classification([0.2, 0.6, 0.2], facts, 0).scores] == ["b", "a", "c"]
    assert [one.label for one in classification([0.2, 0.6, 0.2], facts, 1).scores] == ["b"]
    assert classification([-3.5], HeadFacts(kind="regress"), 0).value == -3.5
