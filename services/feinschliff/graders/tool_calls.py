"""Does the answer call the right tools with the right arguments? Nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import orjson

from feinschliff.graders.grade import Fault, Grade, Item, Sample, quoted, ungraded
from feinschliff.graders.json_path import equal
from feinschliff.graders.spec import Spec, SpecReader
from feinschliff.graders.template import Template, Unresolved, unresolved

ARGUMENTS = ("exact", "subset", "ignore")
CALLS_MAX = 128


class ToolCall(NamedTuple):
    """`arguments` None: they are no JSON object."""

    name: str
    arguments: Mapping[str, object] | None


def read_calls(value: object) -> list[ToolCall] | None:
    """Calls as `{"name", "arguments"}` or as chat answers have them; None where it is no such list."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > CALLS_MAX:
        return None
    calls = [_call(one) for one in value]
    return None if None in calls else [call for call in calls if call is not None]


def _call(value: object) -> ToolCall | None:
    if not isinstance(value, Mapping):
        return None
    function = value.get("function", value)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments or "{}")
        except orjson.JSONDecodeError:
            arguments = None
    return ToolCall(function["name"], arguments if isinstance(arguments, Mapping) else None)


def are_alike(found: ToolCall, wanted: ToolCall, arguments: str) -> bool:
    if found.name != wanted.name:
        return False
    if arguments == "ignore":
        return True
    if found.arguments is None or wanted.arguments is None:
        return False
    if arguments == "exact":
        return equal(found.arguments, wanted.arguments)
    have = found.arguments
    return all(key in have and equal(have[key], value) for key, value in wanted.arguments.items())


def unmatched(
    found: Sequence[ToolCall], wanted: Sequence[ToolCall], arguments: str, *, in_order: bool
) -> list[ToolCall]:
    """The wanted calls that no found one answers, each found one answering for one at most."""
    if in_order:
        left = iter(found)
        return [call for call in wanted if not any(are_alike(one, call, arguments) for one in left)]
    alike = [[k for k, one in enumerate(found) if are_alike(one, call, arguments)] for call in wanted]
    taken: dict[int, int] = {}
    return [call for place, call in enumerate(wanted) if not _takes(place, alike, taken, set())]


def _takes(place: int, alike: Sequence[Sequence[int]], taken: dict[int, int], tried: set[int]) -> bool:
    """Gives the wanted call a found one, moving others to their second choice (Kuhn's matching)."""
    for one in alike[place]:
        if one in tried:
            continue
        tried.add(one)
        if one not in taken or _takes(taken[one], alike, taken, tried):
            taken[one] = place
            return True
    return False


@dataclass(frozen=True)
class ToolCalls:
    """Grades 1.0 or 0.0; passed at 1.0."""

    type: ClassVar[str] = "tool_calls"
    is_binary: ClassVar[bool] = True
    pass_threshold: ClassVar[float] = 1.0

    name: str
    reference: Template
    arguments: str
    in_order: bool
    allow_extra: bool

    @classmethod
    def from_spec(cls, reader: SpecReader) -> Self:
        reader.only("name", "reference", "arguments", "in_order", "allow_extra")
        return cls(
            name=reader.name(),
            reference=reader.template("reference"),
            arguments=reader.choice("arguments", ARGUMENTS, default="exact"),
            in_order=reader.flag("in_order"),
            allow_extra=reader.flag("allow_extra"),
        )

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "reference": self.reference.source,
            "arguments": self.arguments,
            "in_order": self.in_order,
            "allow_extra": self.allow_extra,
        }

    def grade(self, item: Item, sample: Sample) -> Grade:
        try:
            reference = self.reference.render(item, sample)
        except Unresolved as error:
            return unresolved(error)
        try:
            wanted = read_calls(orjson.loads(reference))
        except orjson.JSONDecodeError:
            wanted = None
        if wanted is None:
            return ungraded(Fault.REFERENCE, f"the reference {quoted(reference)} is no list of tool calls")
        found = read_calls(sample.tool_calls)
        if found is None:
            return ungraded(Fault.SAMPLE, "the tool calls of the answer cannot be read")
        missing = unmatched(found, wanted, self.arguments, in_order=self.in_order)
        if missing:
            return Grade(0.0, f"no call is as wanted for {', '.join(quoted(call.name) for call in missing)}")
        if len(found) > len(wanted) and not self.allow_extra:
            return Grade(0.0, f"{len(found)} calls where {len(wanted)} are wanted")
        return Grade(1.0, f"calls {', '.join(quoted(call.name) for call in wanted)}" if wanted else "calls nothing")
