"""The items of a run as a file: JSON lines, or Parquet where pyarrow is installed."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feinschliff.cli.output import plain
from feinschliff.cli.services import Services, refusals
from feinschliff.kit.errors import WrongState
from feinschliff.v1 import evaluation_pb2 as pb

FORMATS = (".jsonl", ".parquet")
PAGE_ITEMS = 200
_NESTED = ("item", "prompt", "message", "grades", "usage", "identity", "error")


def items_of(services: Services, run: str) -> Iterator[dict[str, Any]]:
    """Every item of a run in order, as the API's JSON, with each grader's value beside its grades."""
    query = pb.ListOutputItemsRequest(parent=run, page_size=PAGE_ITEMS)
    while True:
        with refusals():
            page = services.evaluation.ListOutputItems(query)
        for item in page.output_items:
            values = {one.grader: one.value if one.HasField("value") else None for one in item.grades}
            yield {**dict(plain(item)), "values": values}
        if not page.next_page_token:
            return
        query.page_token = page.next_page_token


def export(services: Services, run: str, file: Path) -> int:
    """Writes the file beside itself first; says how many items it has."""
    part = file.with_name(f"{file.name}.part")
    items = items_of(services, run)
    count = _parquet(items, part) if file.suffix == ".parquet" else _jsonl(items, part)
    part.replace(file)
    return count


def _jsonl(items: Iterator[dict[str, Any]], file: Path) -> int:
    count = 0
    with file.open("w", encoding="utf-8") as lines:
        for item in items:
            lines.write(json.dumps(item, ensure_ascii=False) + "\n")
            count += 1
    return count


def _parquet(items: Iterator[dict[str, Any]], file: Path) -> int:
    """One row per item; what has parts of its own is JSON text, a column `value.NAME` per grader."""
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        message = "Parquet needs pyarrow, which is not installed; write a .jsonl file, or install feinschliff[parquet]."
        raise WrongState("PARQUET_NOT_INSTALLED", message, advice=["pip install 'feinschliff[parquet]'"]) from None
    rows = [_flat(item) for item in items]
    columns = dict.fromkeys(name for row in rows for name in row)
    parquet.write_table(arrow.table({name: [row.get(name) for row in rows] for name in columns}), file)
    return len(rows)


def _flat(item: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, float | None] = item["values"]
    row = {name: json.dumps(value, ensure_ascii=False) if name in _NESTED else value for name, value in item.items()}
    del row["values"]
    return {**row, **{f"value.{name}": value for name, value in values.items()}}
