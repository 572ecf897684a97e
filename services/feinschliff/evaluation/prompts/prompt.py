"""From a row to the messages that a model is asked, and to the item that graders see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import ValidationError

from feinschliff.formats.records import ROLES, Message, Role
from feinschliff.graders import template
from feinschliff.graders.grade import Item
from feinschliff.graders.spec import refused
from feinschliff.graders.template import Path, Template, Unresolved
from feinschliff.kit import names

TURNS_MAX = 64
TURN_CHARACTERS_MAX = 100_000
DEFAULT_REFERENCE = "item.prompt"
DEFAULT_ANSWER = "item.completion"

STORED_PROMPT = "projects/{project}/prompts/{prompt}/versions/{version}"

PromptSpec = Mapping[str, object]
"""`{"messages": [{"role", "text"}]}`, `{"item_reference": "item.x"}` or `{"prompt": "projects/..."}`; as kept."""


@dataclass(frozen=True)
class Turn:
    role: Role
    text: Template


@dataclass(frozen=True)
class Prompt:
    """Turns with placeholders, or the path of messages that the row has; a checked `PromptSpec`.

    One that names a stored prompt has neither; it is looked up before it is rendered.
    """

    turns: tuple[Turn, ...] = ()
    reference: Path | None = None

    @classmethod
    def from_spec(cls, spec: PromptSpec, *, field: str) -> Self:
        """Check a prompt when it is defined.

        Raises:
            Invalid: PROMPT_MISSING, PROMPT_TOO_LONG, PROMPT_ROLE_UNKNOWN, TEMPLATE_SYNTAX, TEMPLATE_NAMESPACE, or what
                is wrong with the name of a stored prompt.
        """
        if "item_reference" in spec:
            source = str(spec["item_reference"])
            return cls(reference=template.parse_path(source, field=f"{field}.item_reference"))
        if "prompt" in spec:
            names.parse(STORED_PROMPT, str(spec["prompt"]), field=f"{field}.prompt")
            return cls()
        return cls(turns=_turns(spec.get("messages"), f"{field}.messages.messages"))

    def render(self, item: Item) -> list[Message]:
        """The messages for one row.

        Raises:
            Unresolved: the row lacks what the prompt names, or what it names are no messages.
        """
        if self.reference is not None:
            return _as_messages(self.reference.value({"item": item}), str(self.reference))
        return [Message(role=turn.role, content=turn.text.render(item)) for turn in self.turns]


def item_of(row: Item) -> Item:
    """The row as templates see it: its own fields, and for a conversation `prompt` and `completion`.

    `prompt` is the messages before the last assistant turn, `completion` the text of that turn. A conversation
    without one is all prompt. Fields that the row itself has are never replaced.
    """
    messages = row.get("messages")
    if not isinstance(messages, list):
        return row
    turns = [turn for turn in messages if isinstance(turn, Mapping)]
    last = next((k for k in reversed(range(len(turns))) if turns[k].get("role") == "assistant"), None)
    if last is None:
        return {"prompt": turns, **row}
    made: dict[str, object] = {"prompt": turns[:last]}
    if isinstance(turns[last].get("content"), str):
        made["completion"] = turns[last]["content"]
    return {**made, **row}


def _turns(messages: object, field: str) -> tuple[Turn, ...]:
    if not isinstance(messages, Sequence) or not 1 <= len(messages) <= TURNS_MAX:
        count = len(messages) if isinstance(messages, Sequence) else 0
        message = f"A prompt has 1 to {TURNS_MAX} messages; this one has {count}."
        raise refused("PROMPT_MISSING" if count == 0 else "PROMPT_TOO_LONG", field, message, count=count)
    return tuple(_turn(message, f"{field}[{index}]") for index, message in enumerate(messages))


def _turn(message: Mapping[str, object], field: str) -> Turn:
    role, text = message.get("role"), str(message.get("text", ""))
    if role not in ROLES:
        raise refused("PROMPT_ROLE_UNKNOWN", f"{field}.role", f"{role!r} is no role.", role=role)
    if len(text) > TURN_CHARACTERS_MAX:
        too_long = f"A message has {len(text)} characters; at most {TURN_CHARACTERS_MAX} are read."
        raise refused("PROMPT_TOO_LONG", f"{field}.text", too_long, characters=len(text))
    return Turn(role, template.parse(text, field=f"{field}.text", namespaces=("item",)))


def _as_messages(value: object, path: str) -> list[Message]:
    if isinstance(value, str):
        return [Message(role="user", content=value)]
    if not isinstance(value, list) or not value:
        raise Unresolved(f"{path} is neither a text nor a list of messages")
    try:
        return [Message.model_validate(message) for message in value]
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Unresolved(f"{path} has something that is no message: {where} {error.errors()[0]['msg']}") from None
