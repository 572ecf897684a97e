"""Between the API's messages and our own nouns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from feinschliff.artifacts.commit import key_of
from feinschliff.artifacts.uri import s3_uri
from feinschliff.formats.manifest import FileEntry
from feinschliff.ingestion.datasets import Draft
from feinschliff.ingestion.findings import Finding, Severity
from feinschliff.ingestion.header import Header
from feinschliff.ingestion.intake import Wanted
from feinschliff.ingestion.model import DATASET, SOURCE, VERSION, Dataset, Facts, State, Version, file_of
from feinschliff.ingestion.outputs import JSON_LINES, OCTETS
from feinschliff.ingestion.readers import READERS
from feinschliff.ingestion.receiving import Verdict
from feinschliff.ingestion.split import Split
from feinschliff.ingestion.versions import RowRead
from feinschliff.kit import names
from feinschliff.kit.errors import FieldViolation, Invalid, Refusal
from feinschliff.kit.idempotency import digest_of
from feinschliff.v1 import common_pb2, ingestion_pb2

_FORMATS = {
    name: ingestion_pb2.RowFormat.Value(f"ROW_FORMAT_{reader.family.upper()}") for name, reader in READERS.items()
}
_STATES = {
    State.PROCESSING: ingestion_pb2.DatasetVersion.STATE_PROCESSING,
    State.READY: ingestion_pb2.DatasetVersion.STATE_READY,
}
_SEVERITIES = {
    Severity.NOTE: common_pb2.SEVERITY_INFO,
    Severity.WARNING: common_pb2.SEVERITY_WARNING,
    Severity.ERROR: common_pb2.SEVERITY_ERROR,
}
_SPLITS = {
    "": common_pb2.SPLIT_UNSPECIFIED,
    "train": common_pb2.SPLIT_TRAIN,
    "validation": common_pb2.SPLIT_VALIDATION,
    "test": common_pb2.SPLIT_TEST,
}
_CLAIMS = ("request_id", "size_bytes", "sha256", "validate_only")  # decide nothing about what is made


def header_of(header: ingestion_pb2.UploadHeader) -> Header:
    """Raises Invalid: NAME_MALFORMED, FORMAT_UNSUPPORTED."""
    ids = names.parse(DATASET, header.parent, field="header.parent")
    return Header(
        project=ids["project"],
        dataset=ids["dataset"],
        wanted=Wanted(
            formats=_formats_of(header.format),
            columns=dict(header.columns),
            split=_split_of(header.split),
            skip_bad_rows=header.on_bad_row == ingestion_pb2.ON_BAD_ROW_SKIP,
            size_bytes=header.size_bytes if header.HasField("size_bytes") else None,
            sha256=header.sha256,
        ),
        filename=header.filename or "data.jsonl",
        labels=dict(header.labels),
        annotations=dict(header.annotations),
        base_model=header.base_model,
        create_dataset_if_missing=header.create_dataset_if_missing,
        validate_only=header.validate_only,
        request_id=header.request_id,
        digest=digest_of(header, without=_CLAIMS),
    )


def draft_of(dataset: ingestion_pb2.Dataset) -> Draft:
    return Draft(dataset.display_name, dataset.description, dict(dataset.labels), dict(dataset.annotations))


def split_name(split: common_pb2.Split.ValueType) -> str:
    """`train`, `validation`, `test`, or empty where none is named."""
    return next((name for name, value in _SPLITS.items() if value == split), "")


def version_number(text: str) -> int:
    """The number in a version's name; 0, which no version has, for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def dataset_message(dataset: Dataset) -> ingestion_pb2.Dataset:
    latest = VERSION.format(project=dataset.project, dataset=dataset.id, version=dataset.latest)
    return ingestion_pb2.Dataset(
        name=dataset.name,
        display_name=dataset.display_name,
        description=dataset.description,
        labels=dict(dataset.labels),
        annotations=dict(dataset.annotations),
        latest_version=latest if dataset.latest else "",
        version_count=dataset.versions,
        create_time=_time(dataset.created),
        update_time=_time(dataset.updated),
        etag=dataset.etag,
    )


def version_message(version: Version, bucket: str) -> ingestion_pb2.DatasetVersion:
    message = ingestion_pb2.DatasetVersion(
        name=version.name,
        state=_STATES[version.state],
        sha256=version.sha256,
        filename=version.filename,
        split=_split_message(version.split),
        labels=dict(version.labels),
        annotations=dict(version.annotations),
        create_time=_time(version.created),
        etag=version.etag,
    )
    if version.ready is not None:
        message.ready_time.CopyFrom(_time(version.ready))
    if version.facts is None:
        message.progress.CopyFrom(_progress(version))
    else:
        _add_facts(message, version, version.facts, bucket)
    return message


def verdict_message(verdict: Verdict, header: Header) -> ingestion_pb2.DatasetVersion:
    """A version without a name: READY where the file would become one, FAILED with the reason where not."""
    summary, refusal = verdict.summary, verdict.refusal
    states = ingestion_pb2.DatasetVersion
    message = ingestion_pb2.DatasetVersion(
        state=states.STATE_FAILED if refusal else states.STATE_READY,
        format=_FORMATS.get(summary.format, ingestion_pb2.ROW_FORMAT_UNSPECIFIED),
        filename=header.filename,
        rows=summary.rows,
        rows_by_split=dict(summary.rows_by_split),
        tokens=summary.tokens.total if summary.tokens else 0,
        tokens_estimated=summary.tokens.estimated if summary.tokens else False,
        tokenizer=verdict.tokenizer,
        split=_split_message(header.wanted.split),
        findings=[_finding(finding) for finding in summary.findings],
        labels=dict(header.labels),
        annotations=dict(header.annotations),
    )
    if refusal:
        message.failure.CopyFrom(failure_message(refusal))
    return message


def failure_message(refusal: Refusal) -> common_pb2.Failure:
    return common_pb2.Failure(
        reason=refusal.reason, message=refusal.message, advice=refusal.advice, metadata=refusal.metadata
    )


def row_message(row: RowRead) -> ingestion_pb2.Row:
    return ingestion_pb2.Row(line=row.line, data=_struct(row.content), split=_SPLITS[row.split], sha256=row.sha256)


def format_messages() -> list[ingestion_pb2.FormatDescription]:
    """One for each reader."""
    return [
        ingestion_pb2.FormatDescription(
            format=_FORMATS[name],
            description=reader.description.summary,
            required_fields=reader.description.required_fields,
            optional_fields=reader.description.optional_fields,
            example=_struct(reader.description.example),
            file_suffixes=reader.description.file_suffixes,
        )
        for name, reader in READERS.items()
    ]


def _formats_of(wanted: ingestion_pb2.RowFormat.ValueType) -> tuple[str, ...]:
    if wanted in (ingestion_pb2.ROW_FORMAT_UNSPECIFIED, ingestion_pb2.ROW_FORMAT_AUTO):
        return tuple(READERS)
    fitting = tuple(name for name, value in _FORMATS.items() if value == wanted)
    if fitting:
        return fitting
    known = sorted({ingestion_pb2.RowFormat.Name(value) for value in _FORMATS.values()})
    message = f"This version reads {', '.join(known)}."
    raise Invalid(
        "FORMAT_UNSUPPORTED",
        message,
        fields=[FieldViolation("header.format", message, "FORMAT_UNSUPPORTED")],
        advice=["Bring the rows into one of these formats; ListFormats shows each with an example."],
        known=",".join(known),
    )


def _split_of(split: ingestion_pb2.SplitSpec) -> Split:
    said = [split.HasField(name) for name in ("train_fraction", "validation_fraction", "test_fraction")]
    if not any(said):
        return Split(seed=split.seed)
    return Split(split.train_fraction, split.validation_fraction, split.test_fraction, split.seed)


def _split_message(split: Split) -> ingestion_pb2.SplitSpec:
    return ingestion_pb2.SplitSpec(
        train_fraction=split.train, validation_fraction=split.validation, test_fraction=split.test, seed=split.seed
    )


def _add_facts(message: ingestion_pb2.DatasetVersion, version: Version, facts: Facts, bucket: str) -> None:
    message.format = _FORMATS[facts.format]
    message.source.CopyFrom(_artifact(facts.source, bucket, key_of(version.prefix, SOURCE), OCTETS))
    message.rows = facts.rows
    message.rows_by_split.update(facts.rows_by_split)
    for name, entry in facts.splits.items():
        message.artifacts[name].CopyFrom(_artifact(entry, bucket, key_of(version.prefix, file_of(name)), JSON_LINES))
    message.tokens = facts.tokens
    message.tokens_estimated = facts.tokens_estimated
    message.tokenizer = facts.tokenizer
    message.findings.extend(_finding(finding) for finding in facts.findings)


def _artifact(entry: FileEntry, bucket: str, key: str, media_type: str) -> common_pb2.ArtifactRef:
    return common_pb2.ArtifactRef(
        uri=s3_uri(bucket, key), sha256=entry.sha256, size_bytes=entry.size_bytes, media_type=media_type
    )


def _finding(finding: Finding) -> common_pb2.Finding:
    return common_pb2.Finding(
        severity=_SEVERITIES[finding.severity],
        code=finding.code,
        count=finding.count,
        rows=finding.rows,
        advice=finding.advice,
        message=finding.message,
        field=finding.field,
    )


def _progress(version: Version) -> common_pb2.Progress:
    total = version.expected_bytes
    fraction = min(version.received_bytes / total, 1.0) if total else 0.0
    return common_pb2.Progress(fraction=fraction, done=version.received_bytes, total=total, unit="bytes")


def _time(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _struct(values: Mapping[str, object]) -> Struct:
    return Struct(fields={key: _value(value) for key, value in values.items()})


def _value(value: object) -> Value:
    match value:
        case None:
            return Value(null_value=NULL_VALUE)
        case bool():
            return Value(bool_value=value)
        case int() | float():
            return Value(number_value=value)
        case str():
            return Value(string_value=value)
        case Mapping():
            return Value(struct_value=_struct(value))
        case Sequence():
            return Value(list_value=ListValue(values=[_value(item) for item in value]))
    raise TypeError(f"{type(value).__name__} is no JSON value")
