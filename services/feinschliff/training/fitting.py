"""Which data sets a job can learn from: those that have rows, in a format that fits its objective."""

from __future__ import annotations

from collections.abc import Mapping

from feinschliff.formats.objectives import ROW_FORMATS
from feinschliff.kit.errors import FieldViolation, Invalid


def refuse_unfit(dataset_version: str, row_format: str, objective: str, path: str) -> None:
    """
    Args:
        row_format: `chat` or another; empty is not known and passes, for the trainer refuses rows by line.
        objective: its `kind`.
        path: of the field that names the data set version.

    Raises:
        Invalid: DATASET_FORMAT_UNFIT.
    """
    fitting = ROW_FORMATS[objective]
    if not row_format or row_format in fitting:
        return
    message = f"{dataset_version} holds {row_format} rows; {objective} learns from {', '.join(fitting)} rows."
    raise Invalid(
        "DATASET_FORMAT_UNFIT",
        message,
        fields=[FieldViolation(path, message, "DATASET_FORMAT_UNFIT")],
        advice=["Take another data set, or the objective that fits its rows."],
        dataset_version=dataset_version,
        format=row_format,
    )


def refuse_empty(dataset_version: str, rows_by_split: Mapping[str, int], split: str, path: str) -> None:
    """
    Raises:
        Invalid: DATASET_SPLIT_EMPTY.
    """
    if rows_by_split.get(split):
        return
    message = f"{dataset_version} has no rows in its {split} split; upload it with a larger share for {split}."
    raise Invalid(
        "DATASET_SPLIT_EMPTY",
        message,
        fields=[FieldViolation(path, message, "DATASET_SPLIT_EMPTY")],
        dataset_version=dataset_version,
        split=split,
    )
