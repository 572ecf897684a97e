"""Logs are put together from what nodes still have of them."""

from __future__ import annotations

import pytest

from feinschliff.workloads.kubernetes_logs import LOG_BYTES_MAX, bounded, joined


@pytest.mark.parametrize(
    ("known", "said", "whole"),
    [
        (b"", b"", b""),
        (b"", b"a\n", b"a\n"),
        (b"a\n", b"a\nb\n", b"a\nb\n"),
        (b"a\nb\n", b"a\n", b"a\nb\n"),
        (b"a\nb\n", b"", b"a\nb\n"),
        (b"a\nb\n", b"c\n", b"a\nb\nc\n"),
        (b"x" * 900 + b"last\n", b"x" * 600 + b"last\nnew\n", b"x" * 900 + b"last\nnew\n"),
    ],
)
def test_what_is_said_now_goes_on_where_it_was_known(known: bytes, said: bytes, whole: bytes) -> None:
    assert joined(known, said) == whole


def test_a_log_that_is_too_long_keeps_its_end() -> None:
    whole = bounded(b"x" * LOG_BYTES_MAX + b"end\n")

    assert len(whole) == LOG_BYTES_MAX // 2
    assert whole.endswith(b"end\n")
    assert bounded(b"x" * LOG_BYTES_MAX) == b"x" * LOG_BYTES_MAX
