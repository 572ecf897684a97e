"""Lines come out the same, wherever chunks are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feinschliff.ingestion.lines import Line, LineSplitter


def split(chunks: list[bytes], line_bytes_max: int = 1000) -> list[Line]:
    splitter = LineSplitter(line_bytes_max)
    return [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.finish()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


texts = st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=20)


@given(texts, st.booleans(), st.lists(st.integers(min_value=0), max_size=40), st.integers(1, 40))
def test_chunk_borders_never_matter(lines: list[bytes], ends: bool, places: list[int], line_bytes_max: int) -> None:
    data = b"\n".join(lines) + (b"\n" if ends else b"")
    assert split(cut(data, places), line_bytes_max) == split([data], line_bytes_max)


@given(texts)
def test_every_line_comes_once_and_numbered(lines: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    assert split([data]) == [Line(number, text) for number, text in enumerate(lines, 1)]


def test_last_line_needs_no_line_feed() -> None:
    assert split([b"a\nb"]) == [Line(1, b"a"), Line(2, b"b")]
    assert split([b"a\n"]) == [Line(1, b"a")]
    assert split([]) == []


def test_too_long_line_keeps_its_number_only() -> None:
    assert split([b"abcd\nx\nabcde\ny"], 4) == [Line(1, b"abcd"), Line(2, b"x"), Line(3, None), Line(4, b"y")]
    assert split([b"abcdefgh"], 4) == [Line(1, None)]


def test_endless_line_is_not_collected() -> None:
    splitter = LineSplitter(100)
    for _ in range(1000):
        assert splitter.feed(b"x" * 1000) == []
        assert len(splitter._carry) <= 100
    assert splitter.feed(b"\nok\n") == [Line(1, None), Line(2, b"ok")]
