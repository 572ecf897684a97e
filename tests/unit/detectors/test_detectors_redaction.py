"""Personal data out of a whole text, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.detectors.redaction import KINDS, redacted

STAND_INS = {
    "jane@example.com": "[EMAIL]",
    "+49 30 1234567": "[PHONE]",
    "DE89 3704 0044 0532 0130 00": "[IBAN]",
    "10.0.0.1": "[IP]",
    "a word": "a word",
    "ü": "ü",
}
NUMBERS = "+49 30 1234567, pay DE89 3704 0044 0532 0130 00 by"


@pytest.mark.parametrize(
    ("kinds", "left"),
    [
        (KINDS, "mail [EMAIL] or [PHONE], pay [IBAN] by [CARD] from [IP]"),
        (
            ("email",),
            "mail [EMAIL] or +49 30 1234567, pay DE89 3704 0044 0532 0130 00 by 4111 1111 1111 1111 from 10.0.0.1",
        ),
        (("ip", "card"), f"mail a@b.com or {NUMBERS} [CARD] from [IP]"),
    ],
)
def test_only_what_is_named_is_replaced(kinds: tuple[str, ...], left: str) -> None:
    text = f"mail a@b.com or {NUMBERS} 4111 1111 1111 1111 from 10.0.0.1"
    assert redacted(text, kinds) == left


def test_a_text_without_any_stays_as_it_is() -> None:
    assert redacted("", KINDS) == ""
    assert redacted("call me on 1.1.2024, order 12", KINDS) == "call me on 1.1.2024, order 12"


@given(st.lists(st.sampled_from(sorted(STAND_INS)), max_size=12))
def test_each_is_replaced_where_it_stands_whatever_stands_beside_it(parts: list[str]) -> None:
    assert redacted(" ; ".join(parts), KINDS) == " ; ".join(STAND_INS[part] for part in parts)
