"""What calls about texts may bring, and how tokens are told in words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from feinschliff.inference.inputs import refuse_dimensions, refuse_many_numbers, refuse_several
from feinschliff.inference.scores import Likely, TokenScore
from feinschliff.inference.spelling import spelled
from feinschliff.kit.errors import Invalid

PIECES = {1: b"Hi", 2: b" \xe2", 3: b"\x9c", 4: b"\x93", 5: b"!", 6: b"x" * 300, 7: b"\xff"}


def decode(ids: Sequence[int]) -> str:
    return b"".join(PIECES[one] for one in ids).decode(errors="replace")


def told(ids: Sequence[int], before: Sequence[int] = ()) -> list[tuple[str, bytes]]:
    scores = [TokenScore(one, -1.0) for one in ids]
    return [(one.token, one.utf8) for one in spelled(scores, before, decode)]


def test_a_character_of_several_tokens_is_whole_at_the_last_of_them() -> None:
    assert told([1, 2, 3, 4, 5]) == [
        ("Hi", b"Hi"),
        (" \N{REPLACEMENT CHARACTER}", b""),
        ("\N{REPLACEMENT CHARACTER}", b""),
        ("\N{REPLACEMENT CHARACTER}", " ✓".encode()),
        ("!", b"!"),
    ]


def test_bytes_that_never_become_a_character_are_given_up() -> None:
    assert [one[1] for one in told([7] * 4 + [5])][:3] == [b"", b"", b""]
    assert told([7] * 4 + [5])[3][1].decode() == "\N{REPLACEMENT CHARACTER}" * 4
    assert told([7] * 4 + [5])[4] == ("!", b"!")


def test_bytes_are_bounded() -> None:
    assert len(told([6])[0][1]) == 256


def test_a_decoder_that_treats_a_first_token_in_its_own_way_is_not_asked_for_one() -> None:
    def stripping(ids: Sequence[int]) -> str:
        return decode(ids).removeprefix(" ")

    pieces = {10: b" the", 11: b" end"}
    PIECES.update(pieces)
    scores = [TokenScore(10, -1.0, (Likely(11, -0.5),)), TokenScore(11, -2.0)]
    (first, second) = spelled(scores, [1], stripping)
    assert (first.token, first.top[0].token, second.token) == (" the", " end", " end")


def test_log_probabilities_are_never_above_zero() -> None:
    (found,) = spelled([TokenScore(1, 1e-9, (Likely(1, 1e-9),))], [], decode)
    assert (found.logprob, found.top[0].logprob) == (0.0, 0.0)


@pytest.mark.parametrize(("texts", "rows", "field"), [(0, 0, "texts"), (2049, 0, "texts"), (0, 2049, "tokens")])
def test_a_call_brings_texts_or_rows_of_tokens(texts: int, rows: int, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        refuse_several(texts, rows)
    assert [one.field for one in refused.value.fields] == [field]
    refuse_several(2048, 0)
    refuse_several(0, 1)


def test_vectors_that_do_not_fit_into_one_message_are_refused() -> None:
    refuse_many_numbers(2048, 1024, "texts")
    refuse_many_numbers(480, 8192, "texts")
    with pytest.raises(Invalid) as refused:
        refuse_many_numbers(481, 8192, "texts")
    assert [one.field for one in refused.value.fields] == ["texts"]


@pytest.mark.parametrize(
    ("allowed", "words"), [((768,), "it allows 768"), (range(1, 65), "1 to 64"), ([8, 16], "8, 16")]
)
def test_a_length_that_vectors_cannot_have_is_refused_with_those_they_can(allowed: Sequence[int], words: str) -> None:
    refuse_dimensions(0, allowed, "m")
    refuse_dimensions(allowed[-1], allowed, "m")
    with pytest.raises(Invalid, match=words):
        refuse_dimensions(5000, allowed, "m")
