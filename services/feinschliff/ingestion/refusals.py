"""Why a file is refused as a whole: one function per reason, each with what was found and what to do."""

from __future__ import annotations

from feinschliff.ingestion.findings import ADVICE, BadRows
from feinschliff.ingestion.readers import READERS
from feinschliff.ingestion.readers.detect import Detected
from feinschliff.kit.errors import FieldViolation, Invalid


def file_empty() -> Invalid:
    return Invalid("FILE_EMPTY", "The file has no row.", advice=["Check that the right file was sent."])


def file_binary(kind: str) -> Invalid:
    return Invalid(
        "FILE_BINARY",
        f"The file is {kind}, not text.",
        advice=["Unpack or export it as JSON lines in UTF-8, one row a line."],
        kind=kind,
    )


def file_too_large(size_bytes: int, limit_bytes: int, *, claimed: bool) -> Invalid:
    message = f"The file {'claims' if claimed else 'has'} {size_bytes} bytes or more; at most {limit_bytes} are taken."
    return Invalid(
        "FILE_TOO_LARGE",
        message,
        fields=[FieldViolation("header.size_bytes", message, "FILE_TOO_LARGE")] if claimed else [],
        advice=["Split the file over several versions or datasets; a job can read several."],
        size_bytes=size_bytes,
        limit_bytes=limit_bytes,
    )


def size_mismatch(claimed_bytes: int, received_bytes: int) -> Invalid:
    message = f"{claimed_bytes} bytes were announced and {received_bytes} arrived."
    return Invalid(
        "SIZE_MISMATCH",
        message,
        fields=[FieldViolation("header.size_bytes", message, "SIZE_MISMATCH")],
        advice=["Upload the file again; the connection may have broken or the file changed meanwhile."],
        claimed_bytes=claimed_bytes,
        received_bytes=received_bytes,
    )


def hash_mismatch(claimed: str, received: str) -> Invalid:
    message = "The bytes that arrived have another SHA-256 than was announced."
    return Invalid(
        "HASH_MISMATCH",
        message,
        fields=[FieldViolation("header.sha256", message, "HASH_MISMATCH")],
        advice=["Upload the file again; it was changed or damaged on the way."],
        claimed_sha256=claimed,
        received_sha256=received,
    )


def format_unknown(detected: Detected) -> Invalid:
    known = "; ".join(f"{name}: {', '.join(READERS[name].description.required_fields)}" for name in READERS)
    return Invalid(
        "FORMAT_UNKNOWN",
        f"The first rows are of no known format. Seen: {detected.seen}. Known, with required fields: {known}.",
        advice=["Rename the fields, or name the format and map its fields to your columns in the upload's header."],
        seen=detected.seen,
        known=",".join(READERS),
    )


def format_ambiguous(detected: Detected) -> Invalid:
    names = ", ".join(detected.names)
    return Invalid(
        "FORMAT_AMBIGUOUS",
        f"The first rows fit more than one format: {names}. Seen: {detected.seen}.",
        advice=["Name the format in the upload's header, or upload one file per format."],
        formats=names,
        seen=detected.seen,
    )


def rows_invalid(bad: BadRows, good_rows: int) -> Invalid:
    counts = bad.counts().most_common()
    codes = ", ".join(f"{code}={count}" for code, count in counts)
    fields = [
        FieldViolation(f"lines[{line}]{'.' if problem.field else ''}{problem.field}", problem.message, problem.code)
        for line, problem in bad.first
    ]
    advice = [ADVICE[code] for code, _ in counts[:4]]
    return Invalid(
        "ROWS_INVALID",
        f"{bad.rows} of {bad.rows + good_rows} rows cannot be used ({codes}), the first at line {bad.first[0][0]}; "
        "nothing is stored.",
        fields=fields,
        advice=[*advice, "Or upload with on_bad_row = SKIP to keep the good rows."],
        bad_rows=bad.rows,
        good_rows=good_rows,
        first_line=bad.first[0][0],
        codes=codes,
    )


def too_few_rows(rows: int, rows_min: int) -> Invalid:
    return Invalid(
        "TOO_FEW_ROWS",
        f"The file has {rows} good rows; at least {rows_min} are needed.",
        advice=["Add rows; 50 to 100 are a sound start."],
        rows=rows,
        rows_min=rows_min,
    )


def train_split_empty(rows: int) -> Invalid:
    message = f"None of the {rows} rows fell into the train split, although it was given a share."
    return Invalid(
        "SPLIT_EMPTY",
        message,
        fields=[FieldViolation("header.split.train_fraction", message, "SPLIT_EMPTY")],
        advice=[ADVICE["SPLIT_EMPTY"]],
        rows=rows,
    )


def chunk_too_large(chunk_bytes: int, limit_bytes: int) -> Invalid:
    return Invalid(
        "CHUNK_TOO_LARGE",
        f"A chunk has {chunk_bytes} bytes; at most {limit_bytes} are taken at once.",
        fields=[FieldViolation("chunk", "The chunk is too large.", "CHUNK_TOO_LARGE")],
        advice=["Send the file in pieces of at most 1 MiB."],
        chunk_bytes=chunk_bytes,
        limit_bytes=limit_bytes,
    )
