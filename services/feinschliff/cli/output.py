"""What commands print: tables and words for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS = 200  # where no terminal says how wide it is, lines are not broken
_WHOLE = {
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT64,
}


class Output:
    """Results on stdout; notes and progress on stderr, so that a pipe gets results only."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    def show(self, data: object, render: Callable[[], RenderableType]) -> None:
        """The result of a command: `data` as one JSON document, or what `render` makes of it."""
        if self.as_json:
            self.line(data, indent=2)
        else:
            self.out.print(render(), markup=False, highlight=False)

    def line(self, data: object, *, indent: int | None = None) -> None:
        """One JSON document on stdout."""
        sys.stdout.write(json.dumps(plain(data), ensure_ascii=False, indent=indent) + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """A word to a person on stderr; silent in JSON."""
        if not self.as_json:
            self.err.print(Text(text))

    def text(self, text: str) -> None:
        """A line on stdout, as it is; nothing in JSON."""
        if not self.as_json:
            self.out.print(Text(text), soft_wrap=True)


def plain(data: object) -> Any:
    """Messages, mappings and sequences as what JSON knows; fields by their names in the contract."""
    if isinstance(data, Message):
        return _numbers(MessageToDict(data, preserving_proto_field_name=True), data.DESCRIPTOR)
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [plain(value) for value in data]
    return data


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A plain table; columns whose name starts with `#` stand right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.lstrip("#"), justify="right" if column.startswith("#") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(value if isinstance(value, Text) else Text(str(value)) for value in row))
    return made


def facts(pairs: Mapping[str, object]) -> Table:
    """Names and values below each other; empty values are left out."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        if value not in ("", None):
            made.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    return made


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def seconds(value: float) -> str:
    """A duration as people say it: `8.3s`, `4m10s`, `2h05m`."""
    if value < 60:
        return f"{value:.1f}s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPE_COLUMNS, highlight=False, soft_wrap=False)


def _numbers(made: dict[str, Any], descriptor: Any) -> dict[str, Any]:
    """64-bit integers as numbers; the JSON form of protocol buffers makes texts of them."""
    for field in descriptor.fields:
        if field.name not in made:
            continue
        value = made[field.name]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            made[field.name] = {
                key: _value(one, field.message_type.fields_by_name["value"]) for key, one in value.items()
            }
        elif isinstance(value, list):
            made[field.name] = [_value(one, field) for one in value]
        else:
            made[field.name] = _value(value, field)
    return made


def _value(value: Any, field: Any) -> Any:
    if field.cpp_type in _WHOLE:
        return int(value)
    is_ours = field.message_type is not None and not field.message_type.full_name.startswith("google.protobuf.")
    return _numbers(value, field.message_type) if is_ours and isinstance(value, dict) else value
