"""What a reader is: one line of a file in, one row in normal form out, or every reason why not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import orjson

Content = dict[str, object]
"""A row as `formats.records.Record` stores it, without `line` and without keys that are None."""

PROBLEMS_PER_ROW_MAX = 20


class Problem(NamedTuple):
    """One thing that is wrong with a row; the message repeats none of its content."""

    code: str
    field: str
    message: str


class BadRow(Exception):
    """A row that cannot be used, with everything that is wrong with it; at least one problem."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(f"{problem.field}: {problem.message}" for problem in problems))
        self.problems = problems


class Problems:
    """Collects what is wrong with one row; at most 20, the rest follows from them as a rule."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._found)

    def add(self, code: str, field: str, message: str) -> None:
        if len(self._found) < PROBLEMS_PER_ROW_MAX:
            self._found.append(Problem(code, field, message))

    def raise_if_any(self) -> None:
        if self._found:
            raise BadRow(*self._found)


@dataclass(frozen=True)
class Description:
    """A format for people: what a row means, what it needs, and a good one."""

    summary: str
    required_fields: tuple[str, ...]
    optional_fields: tuple[str, ...]
    example: Mapping[str, object]
    file_suffixes: tuple[str, ...] = (".jsonl",)


class Reader(Protocol):
    """Reads one format. `columns` maps a field of the format to the column of the file that holds it.

    Formats of one family mean the same and are one to callers of the API.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    description: ClassVar[Description]

    def __init__(self, columns: Mapping[str, str]) -> None: ...

    def recognises(self, line: bytes) -> bool:
        """Whether the line is meant to be of this format, well formed or not."""
        ...

    def read(self, line: bytes) -> Content:
        """The row in normal form.

        Raises:
            BadRow: with every problem found.
        """
        ...


def parse_object(line: bytes, columns: Mapping[str, str]) -> dict[str, object]:
    """The JSON object on a line, its columns renamed to the format's fields."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadRow(_unreadable(line, error)) from None
    if type(row) is not dict:
        raise BadRow(Problem("not_an_object", "", f"the line is {json_type(row)}, not a JSON object"))
    return _renamed(row, columns) if columns else row


def parse_text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadRow(Problem("bad_utf8", "", f"byte {error.start + 1} of the line is not UTF-8")) from None


def sniff_object(line: bytes, columns: Mapping[str, str]) -> dict[str, object] | None:
    """The object on a line, or None where it is not one."""
    try:
        return parse_object(line, columns)
    except BadRow:
        return None


def json_type(value: object) -> str:
    """The JSON type of a value in words, for messages that may not repeat the value."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
    return "an object"


def shown(name: str) -> str:
    """A key or an enumerated value in quotes where it looks like a name; anything else could be content."""
    return f"`{name}`" if _is_name(name) else f"(text of {len(name)} characters)"


def refuse_unknown_keys(found: Iterable[str], known: frozenset[str], problems: Problems) -> None:
    """Add a problem for each key of a row that its format does not have."""
    for key in found:
        if key not in known:
            problems.add("unrecognized_key", key if _is_name(key) else "", f"the key {shown(key)} is not known")


def _is_name(text: str) -> bool:
    plain = text.replace("_", "").replace("-", "")
    return len(text) <= 40 and plain.isascii() and plain.isalnum()


def _renamed(row: dict[str, object], columns: Mapping[str, str]) -> dict[str, object]:
    taken = set(columns.values())
    kept = {key: value for key, value in row.items() if key not in taken and key not in columns}
    return kept | {field: row[column] for field, column in columns.items() if column in row}


def _unreadable(line: bytes, error: orjson.JSONDecodeError) -> Problem:
    try:
        line.decode()
    except UnicodeDecodeError as bad:
        return Problem("bad_utf8", "", f"byte {bad.start + 1} of the line is not UTF-8")
    return Problem("broken_json", "", f"character {error.pos + 1} of the line: {error.msg}")
