"""Parts of the contract in words: states, times, findings, failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from feinschliff.v1 import common_pb2

V = TypeVar("V")
_STYLES = {
    common_pb2.SEVERITY_ERROR: "red",
    common_pb2.SEVERITY_WARNING: "yellow",
}
_LINES_SHOWN = 10


def state(name_of: Callable[[V], str], number: V) -> str:
    """`STATE_READY` as `READY`; a value that this version does not know, by its number."""
    try:
        return name_of(number).removeprefix("STATE_")
    except ValueError:
        return f"STATE {number}"


def moment(time: Timestamp) -> str:
    """Local time to the second; empty where there is none."""
    if not time.seconds:
        return ""
    return time.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def findings(found: Iterable[common_pb2.Finding]) -> Iterator[Text]:
    for finding in found:
        lines = ", ".join(str(row) for row in finding.rows[:_LINES_SHOWN])
        where = f" (lines {lines}{', ...' if finding.count > _LINES_SHOWN else ''})" if lines else ""
        severity = common_pb2.Severity.Name(finding.severity).removeprefix("SEVERITY_").lower()
        text = f"{severity}: {finding.code} x{finding.count}: {finding.message}{where}"
        yield Text(text, style=_STYLES.get(finding.severity, ""))
        if finding.advice:
            yield Text(f"  try: {finding.advice}")


def failure(why: common_pb2.Failure) -> str:
    """`REASON: message` and what to do; empty where nothing failed."""
    if not why.reason:
        return ""
    return "\n".join([f"{why.reason}: {why.message}", *(f"  try: {advice}" for advice in why.advice)])
