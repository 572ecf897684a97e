"""What is noticed about a file: counted exactly, remembered up to a bound, each kind with its advice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from feinschliff.ingestion.readers.reader import Problem

FINDINGS_MAX = 200
ROWS_SHOWN_MAX = 1000
FIRST_PROBLEMS_MAX = 100

ADVICE: Mapping[str, str] = {
    "broken_json": "Write each row as one JSON object on one line; check it with `jq -c . file.jsonl`.",
    "not_an_object": "Write each row as an object in braces; make rows of a list with `jq -c '.[]' file.json`.",
    "bad_utf8": "Save the file as UTF-8; `iconv -f LATIN1 -t UTF-8` converts most older files.",
    "line_too_long": "Shorten the row or split it; check that rows are separated by line feeds.",
    "unrecognized_key": "Remove the key, or correct its spelling.",
    "missing_key": "Add the field, or name the column that holds it in `columns`.",
    "missing_messages_list": 'Give each row a list `messages` with at least one {"role": "assistant", "content": ...}.',
    "message_missing_key": "Add the field that is named.",
    "message_unrecognized_key": "Keep role, content, name, weight, tool_calls, tool_call_id; remove the rest.",
    "unrecognized_role": "Use system, developer, user, assistant, tool or function.",
    "missing_content": "Give the message a `content`; only an assistant message with tool calls needs none.",
    "empty_content": "Remove the row, or fill in what is said.",
    "example_missing_assistant_message": "Add the answer that the model should learn.",
    "nothing_to_train": "Give one assistant message the weight 1, or leave the weights out.",
    "wrong_type": "Give the field a value of the type that is named.",
    "invalid_weight": "Use 0 or 1, on assistant messages only; leave it out to train on the message.",
    "unsupported_content_part": "Use text parts only, or a plain string.",
    "invalid_tool": 'Declare tools as {"type": "function", "function": {"name", "description", "parameters"}}.',
    "invalid_tool_call": 'Write calls as {"id", "type": "function", "function": {"name", "arguments": "JSON text"}}.',
    "unknown_tool_call_id": "Repeat the id of a call that an earlier assistant message makes.",
    "missing_turn_marker": "Begin each row with `###Human:` and put `###Assistant:` before the answer.",
    "text_before_first_turn": "Begin the row with `###Human:` or `###System:`.",
    "turn_order": "Let Human and Assistant take turns, Human first.",
    "label_twice": "Keep `label` for one class, or `labels` for any number of them.",
    "label_invalid": "Name classes in a few words; free text is learned from conversations instead.",
    "FEW_ROWS": "50 to 100 good rows are a sound start; more variety helps more than more epochs.",
    "DUPLICATE_ROWS": "Remove repeated rows unless they shall count more.",
    "SPLIT_EMPTY": "Add rows, raise the share of the split, or take another seed.",
    "TOKENS_ESTIMATED": "",
    "TOKENS_NOT_COUNTED": "Install the base model that the service counts with, or name another in `base_model`.",
}


class Severity(StrEnum):
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One kind of thing found: exact count, and the first 1000 lines where it was."""

    severity: Severity
    code: str
    message: str
    count: int = 1
    rows: tuple[int, ...] = ()
    field: str = ""

    @property
    def advice(self) -> str:
        return ADVICE[self.code]


@dataclass
class _Group:
    message: str
    count: int = 0
    rows: list[int] = field(default_factory=list)


class BadRows:
    """Everything wrong with the rows of a file, by code and field; at most 200 groups, then by code alone."""

    def __init__(self) -> None:
        self.rows = 0
        self.first: list[tuple[int, Problem]] = []
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, line: int, problems: Sequence[Problem]) -> None:
        self.rows += 1
        for problem in problems:
            if len(self.first) < FIRST_PROBLEMS_MAX:
                self.first.append((line, problem))
            group = self._group_of(problem)
            group.count += 1
            if len(group.rows) < ROWS_SHOWN_MAX and line not in group.rows[-1:]:
                group.rows.append(line)

    def counts(self) -> Counter[str]:
        """How often each code was found."""
        counts: Counter[str] = Counter()
        for (code, _), group in self._groups.items():
            counts[code] += group.count
        return counts

    def findings(self, severity: Severity) -> list[Finding]:
        """The most frequent first."""
        found = [
            Finding(severity, code, group.message, group.count, tuple(group.rows), at)
            for (code, at), group in self._groups.items()
        ]
        return sorted(found, key=lambda finding: (-finding.count, finding.rows))

    def _group_of(self, problem: Problem) -> _Group:
        key = (problem.code, problem.field)
        if key not in self._groups and len(self._groups) >= FINDINGS_MAX - len(ADVICE):
            key = (problem.code, "")
        return self._groups.setdefault(key, _Group(problem.message))
