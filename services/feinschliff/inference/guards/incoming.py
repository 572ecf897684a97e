"""A conversation before the model sees it, read by the guards that know texts by rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from feinschliff.detectors.rule import Window
from feinschliff.formats.records import Message, Role
from feinschliff.inference.guards.guard import Action, Guard, Injection, Topics
from feinschliff.inference.guards.reading import read
from feinschliff.inference.guards.rules import allowing

FROM_OUTSIDE: tuple[Role, ...] = ("user", "tool")
OFF_TOPIC = "off_topic"


class Block(NamedTuple):
    """What ended the reading: a guard, its rule, and the turn by number where it is one turn."""

    guard: Guard
    rule: str
    turn: int | None


class Admitted(NamedTuple):
    """The conversation as guards leave it, how often each rule counted by guard's name, and what blocked it."""

    messages: list[Message]
    found: dict[str, Counter[str]]
    block: Block | None


def read_conversation(guards: Sequence[Guard], messages: Sequence[Message]) -> Admitted:
    """What guards find turn by turn; the first block ends it."""
    found: dict[str, Counter[str]] = {}
    left: list[Message] = []
    for turn, message in enumerate(messages):
        reader = _Reader([guard for guard in guards if _reads(guard, message.role)], found)
        left.append(_through(message, reader.read))
        if reader.block:
            return Admitted(list(messages), found, reader.block._replace(turn=turn))
    for guard in guards:
        if isinstance(guard.of, Topics) and not names_a_topic(guard.of, _said_by_users(messages)):
            found.setdefault(guard.name, Counter())[OFF_TOPIC] += 1
            if guard.action is Action.BLOCK:
                return Admitted(list(messages), found, Block(guard, OFF_TOPIC, None))
    return Admitted(left, found, None)


def names_a_topic(of: Topics, texts: Sequence[str]) -> bool:
    """Whether one of the texts names an allowed topic; true where all topics are allowed."""
    return not of.allow or any(rule.scan(Window(text, 0, True)).hits for text in texts for rule in allowing(of))


def newest_from_outside(messages: Sequence[Message]) -> list[int]:
    """The turns of users and tools since the last answer, by number; earlier ones were read when they were new."""
    answers = [turn for turn, message in enumerate(messages) if message.role == "assistant"]
    first = answers[-1] + 1 if answers else 0
    return [turn for turn in range(first, len(messages)) if messages[turn].role in FROM_OUTSIDE]


class _Reader:
    """Reads the texts of one turn, one after another."""

    def __init__(self, guards: Sequence[Guard], found: dict[str, Counter[str]]) -> None:
        self._guards = guards
        self._found = found
        self.block: Block | None = None

    def read(self, text: str) -> str:
        if self.block or not text:
            return text
        left, reading = read(self._guards, text)
        for number, rules in reading.found.items():
            self._found.setdefault(self._guards[number].name, Counter()).update(rules)
        if reading.blocked_by:
            self.block = Block(reading.blocked_by, reading.blocking_rule, None)
        return left


def _reads(guard: Guard, role: Role) -> bool:
    """What the application says itself may name its rules and topics; what the model said was read when it said it."""
    return role in FROM_OUTSIDE or not isinstance(guard.of, Injection | Topics)


def _said_by_users(messages: Sequence[Message]) -> list[str]:
    return [message.content or "" for message in messages if message.role == "user"]


def _through(message: Message, read_text: Callable[[str], str]) -> Message:
    """The turn with its text, and the texts in the arguments of its tool calls, as `read_text` leaves them."""
    changes: dict[str, Any] = {}
    if message.content is not None:
        changes["content"] = read_text(message.content)
    if message.tool_calls:
        changes["tool_calls"] = [_call_through(call, read_text) for call in message.tool_calls]
    return message.model_copy(update=changes)


def _call_through(call: dict[str, Any], read_text: Callable[[str], str]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = orjson.dumps(_value_through(orjson.loads(function["arguments"]), read_text)).decode()
    except orjson.JSONDecodeError:
        arguments = read_text(function["arguments"])
    return {**call, "function": {**function, "arguments": arguments}}


def _value_through(value: Any, read_text: Callable[[str], str]) -> Any:
    match value:
        case str():
            return read_text(value)
        case list():
            return [_value_through(item, read_text) for item in value]
        case dict():
            return {key: _value_through(item, read_text) for key, item in value.items()}
    return value
