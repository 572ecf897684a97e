"""A whole file: what it becomes, why it is refused, and that chunks never matter."""

from __future__ import annotations

import gzip
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.formats.records import Record
from feinschliff.ingestion.intake import Intake, Limits, Summary, Wanted
from feinschliff.ingestion.readers.chat import ChatReader
from feinschliff.ingestion.split import Divider, Split
from feinschliff.kit.errors import Invalid

ALL_TRAIN = Split(1.0, 0.0, 0.0)
DEFAULT, USUAL = Wanted(), Limits()


class Kept:
    """Outputs in memory."""

    def __init__(self) -> None:
        self.bytes_as_sent = b""
        self.splits: dict[str, bytes] = defaultdict(bytes)

    def source(self, data: bytes) -> None:
        self.bytes_as_sent += data

    def split(self, name: str, data: bytes) -> None:
        self.splits[name] += data


class Taken(NamedTuple):
    summary: Summary
    kept: Kept


def chat_row(number: int) -> bytes:
    question, answer = f"Question {number}?", f"Answer {number}."
    return orjson.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})


def rows(count: int) -> list[bytes]:
    return [chat_row(number) for number in range(count)]


def file_of(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def take(data: bytes, wanted: Wanted = DEFAULT, limits: Limits = USUAL, chunk_bytes: int = 1 << 20) -> Taken:
    kept = Kept()
    intake = Intake(wanted, limits, kept)
    for start in range(0, len(data), chunk_bytes):
        intake.feed(data[start : start + chunk_bytes])
    return Taken(intake.finish(), kept)


def refused(data: bytes, wanted: Wanted = DEFAULT, limits: Limits = USUAL, chunk_bytes: int = 1 << 20) -> Invalid:
    with pytest.raises(Invalid) as caught:
        take(data, wanted, limits, chunk_bytes)
    assert caught.value.advice, f"{caught.value.reason} gives no advice"
    return caught.value


def codes(summary: Summary) -> dict[str, int]:
    return {finding.code: finding.count for finding in summary.findings}


def test_rows_are_kept_in_order_with_their_lines() -> None:
    lines = rows(60)
    summary, kept = take(file_of(lines), Wanted(split=ALL_TRAIN))
    records = [Record.from_json_line(line) for line in kept.splits["train"].splitlines()]
    assert [record.line for record in records] == list(range(1, 61))
    assert [record.messages[0].content for record in records] == [f"Question {number}?" for number in range(60)]
    assert summary.rows_by_split == {"train": 60}
    assert kept.bytes_as_sent == file_of(lines)
    assert summary.source_sha256 == hashlib.sha256(file_of(lines)).hexdigest()


def test_rows_are_divided_as_their_records_content_says() -> None:
    _, kept = take(file_of(rows(400)), Wanted(split=Split(0.5, 0.3, 0.2)))
    divider = Divider(Split(0.5, 0.3, 0.2))
    assert set(kept.splits) == {"train", "validation", "test"}
    for name, text in kept.splits.items():
        for line in text.splitlines():
            assert divider.split_of(Record.from_json_line(line).content_digest()) == name


TOOL = {"type": "function", "function": {"name": "f", "description": None, "parameters": {"x": {"a": None}}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_digest_of_rows_with_tools_is_that_of_their_records() -> None:
    row = {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [CALL], "weight": 1}],
        "tools": [TOOL],
    }
    content = ChatReader({}).read(orjson.dumps(row))
    ours = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()
    assert Record.model_validate(content).content_digest() == ours


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([*rows(30), b"", b"  ", b"{broken", b'{"messages": 1}', b"\xff"]), min_size=10, max_size=60
    ),
    st.integers(1, 200),
    st.booleans(),
)
def test_chunk_borders_never_matter(lines: list[bytes], chunk_bytes: int, skip: bool) -> None:
    data, wanted = file_of(lines), Wanted(skip_bad_rows=skip)

    def outcome(size: int) -> object:
        try:
            summary, kept = take(data, wanted, Limits(rows_min=1), size)
        except Invalid as refusal:
            return refusal.reason, refusal.message, refusal.fields, refusal.metadata
        return summary, dict(kept.splits), kept.bytes_as_sent

    assert outcome(chunk_bytes) == outcome(1 << 20)


def test_every_bad_row_is_named_by_line_code_and_field() -> None:
    lines = rows(20)
    lines[2] = b'{"messages": [{"role": "user", "content": "a"}]}'
    lines[6] = b"{broken"
    lines[11] = b'{"messages": [{"role": "user"}, {"role": "asst", "content": "b"}]}'
    refusal = refused(file_of(lines))
    assert refusal.reason == "ROWS_INVALID"
    assert [(field.field, field.reason) for field in refusal.fields] == [
        ("lines[3].messages", "example_missing_assistant_message"),
        ("lines[7]", "broken_json"),
        ("lines[12].messages[0].content", "missing_content"),
        ("lines[12].messages[1].role", "unrecognized_role"),
    ]
    assert refusal.metadata["bad_rows"] == "3"
    assert refusal.metadata["first_line"] == "3"
    assert "17 " not in refusal.message
    assert "3 of 20 rows" in refusal.message


def test_nothing_more_is_written_once_a_row_is_bad() -> None:
    kept = Kept()
    intake = Intake(Wanted(), Limits(), kept)
    intake.feed(b"{broken\n" + file_of(rows(600)))
    written = len(kept.bytes_as_sent)
    intake.feed(file_of(rows(600)))
    assert len(kept.bytes_as_sent) == written


def test_bad_rows_can_be_left_out_and_are_all_named() -> None:
    lines = rows(60)
    lines[4], lines[9] = b"{broken", b"{broken too"
    summary, kept = take(file_of(lines), Wanted(split=ALL_TRAIN, skip_bad_rows=True))
    assert summary.rows == 58
    finding = next(finding for finding in summary.findings if finding.code == "broken_json")
    assert (finding.count, finding.rows, finding.severity) == (2, (5, 10), "warning")
    assert [Record.from_json_line(line).line for line in kept.splits["train"].splitlines()][3:6] == [4, 6, 7]


def test_too_few_good_rows_are_refused() -> None:
    refusal = refused(file_of(rows(9)))
    assert (refusal.reason, refusal.metadata) == ("TOO_FEW_ROWS", {"rows": "9", "rows_min": "10"})
    lines = rows(10)
    lines[0] = b"{"
    assert refused(file_of(lines), Wanted(skip_bad_rows=True)).reason == "TOO_FEW_ROWS"


def test_few_rows_are_a_warning_and_fifty_are_none() -> None:
    assert codes(take(file_of(rows(49)), Wanted(split=ALL_TRAIN)).summary) == {"FEW_ROWS": 49, "TOKENS_NOT_COUNTED": 1}
    assert codes(take(file_of(rows(50)), Wanted(split=ALL_TRAIN)).summary) == {"TOKENS_NOT_COUNTED": 1}


def test_duplicates_are_counted_with_their_lines_and_share_a_split() -> None:
    summary, kept = take(file_of(rows(30) + rows(30)), Wanted(split=Split(0.5, 0.5)))
    finding = next(finding for finding in summary.findings if finding.code == "DUPLICATE_ROWS")
    assert (finding.count, finding.rows) == (30, tuple(range(31, 61)))
    per_split = [
        {Record.from_json_line(line).content_digest() for line in text.splitlines()} for text in kept.splits.values()
    ]
    assert not set.intersection(*per_split)


def test_empty_split_that_was_asked_for_is_a_warning() -> None:
    summary, _ = take(file_of(rows(10)), Wanted(split=Split(0.999, 0.001)))
    assert codes(summary)["SPLIT_EMPTY"] == 1


def test_empty_train_split_is_refused() -> None:
    assert refused(file_of(rows(10)), Wanted(split=Split(0.001, 0.999))).reason == "SPLIT_EMPTY"


def test_file_for_tests_only_needs_no_train_split() -> None:
    summary, kept = take(file_of(rows(10)), Wanted(split=Split(0.0, 0.0, 1.0)))
    assert (dict(summary.rows_by_split), list(kept.splits)) == ({"test": 10}, ["test"])


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 20])
@pytest.mark.parametrize("data", [b"", b"\n\n", b" \n\t\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_file_without_a_row_is_empty(data: bytes, chunk_bytes: int) -> None:
    assert refused(data, chunk_bytes=chunk_bytes).reason == "FILE_EMPTY"


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 20])
def test_binary_file_is_refused_at_its_head(chunk_bytes: int) -> None:
    refusal = refused(gzip.compress(file_of(rows(100))), chunk_bytes=chunk_bytes)
    assert (refusal.reason, refusal.metadata["kind"]) == ("FILE_BINARY", "a gzip archive")


def test_binary_file_is_refused_before_all_of_it_came() -> None:
    intake = Intake(Wanted(), Limits(), Kept())
    with pytest.raises(Invalid, match="not text"):
        intake.feed(b"\x00\x01\x02\n" * 2000)


def test_byte_order_mark_is_passed_over() -> None:
    assert take(b"\xef\xbb\xbf" + file_of(rows(50))).summary.rows == 50


def test_windows_line_ends_are_taken() -> None:
    assert take(b"\r\n".join(rows(50))).summary.rows == 50


def test_unknown_format_says_what_was_seen_and_what_is_known() -> None:
    refusal = refused(b'{"prompt": "a", "completion": "b"}\n' * 20)
    assert refusal.reason == "FORMAT_UNKNOWN"
    assert "`completion`, `prompt`" in refusal.message
    assert "chat: messages" in refusal.message
    assert refusal.metadata["known"] == "chat,instruction,human_assistant,classification,regression,text"


def test_two_formats_in_one_file_are_refused() -> None:
    refusal = refused(file_of(rows(5)) + b'{"instruction": "a", "output": "b"}\n' * 20)
    assert (refusal.reason, refusal.metadata["formats"]) == ("FORMAT_AMBIGUOUS", "chat, instruction")


def test_named_format_is_used_without_a_guess() -> None:
    refusal = refused(b'{"prompt": "a"}\n' * 20, Wanted(formats=("chat",)))
    assert refusal.reason == "ROWS_INVALID"
    assert refusal.fields[0].reason == "unrecognized_key"


@pytest.mark.parametrize("chunk_bytes", [7, 1 << 20])
def test_long_line_is_named(chunk_bytes: int) -> None:
    lines = rows(20)
    lines[13] = b'{"messages": "' + b"x" * 3000 + b'"}'
    refusal = refused(file_of(lines), limits=Limits(line_bytes_max=2000), chunk_bytes=chunk_bytes)
    assert (refusal.fields[0].field, refusal.fields[0].reason) == ("lines[14]", "line_too_long")


def test_file_of_one_endless_line_is_refused_by_its_line() -> None:
    refusal = refused(b"x" * 100_000, limits=Limits(line_bytes_max=2000), chunk_bytes=1000)
    assert (refusal.reason, refusal.fields[0].reason) == ("ROWS_INVALID", "line_too_long")


def test_bad_utf8_is_named() -> None:
    lines = rows(20)
    lines[3] = lines[3].replace(b"Question", b"Fr\xe4ge")
    refusal = refused(file_of(lines))
    assert (refusal.fields[0].field, refusal.fields[0].reason) == ("lines[4]", "bad_utf8")


def test_claims_are_held_against_what_came() -> None:
    data = file_of(rows(50))
    right = hashlib.sha256(data).hexdigest()
    assert take(data, Wanted(size_bytes=len(data), sha256=right)).summary.rows == 50
    assert refused(data, Wanted(size_bytes=len(data) + 1)).reason == "SIZE_MISMATCH"
    assert refused(data, Wanted(sha256="0" * 64)).reason == "HASH_MISMATCH"


def test_file_beyond_the_limit_is_refused_while_it_comes() -> None:
    refusal = refused(file_of(rows(50)), limits=Limits(file_bytes_max=1000), chunk_bytes=300)
    assert (refusal.reason, refusal.metadata["size_bytes"]) == ("FILE_TOO_LARGE", "1200")


def test_findings_are_bounded_whatever_comes() -> None:
    lines = [
        orjson.dumps({"messages": [{"role": "user", "content": "a"}] * index + [{"role": "x"}]}) for index in range(300)
    ]
    summary, _ = take(file_of(rows(50) + lines * 5), Wanted(skip_bad_rows=True))
    assert len(summary.findings) <= 200
    assert sum(count for code, count in codes_summed(summary).items() if code == "unrecognized_role") == 1500
    assert all(len(finding.rows) <= 1000 for finding in summary.findings)


def codes_summed(summary: Summary) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for finding in summary.findings:
        counts[finding.code] += finding.count
    return counts
