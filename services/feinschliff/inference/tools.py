"""The tools of a call: what is refused, how the template is told of them, and the form that calls must have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from feinschliff.inference.dialects import Dialect
from feinschliff.inference.forms import MARKER, TO_MARKER, Form, Schema
from feinschliff.kit.errors import FieldViolation

TOOLS_MAX = 128
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Mode = Literal["none", "auto", "required", "function"]


@dataclass(frozen=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any] | None
    strict: bool

    @property
    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it: OpenAI's form."""
        function: dict[str, Any] = {"name": self.name, "description": self.description}
        function["parameters"] = self.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Toolbox:
    """The tools of a call and which of them it may or must use.

    Args:
        mode: `none` hides them from the model.
        function: the one to call; only with `function`.
        single: at most one call in a turn.
    """

    tools: tuple[Tool, ...] = ()
    mode: Mode = "auto"
    function: str = ""
    single: bool = False

    @property
    def is_used(self) -> bool:
        return bool(self.tools) and self.mode != "none"

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.tools)

    @property
    def for_template(self) -> list[dict[str, Any]] | None:
        return [tool.for_template for tool in self.tools] if self.is_used else None


def tool_violations(box: Toolbox, path: str) -> Iterator[FieldViolation]:
    """Everything that is wrong with the tools, with its path."""
    if len(box.tools) > TOOLS_MAX:
        yield FieldViolation(f"{path}tools", f"At most {TOOLS_MAX} tools, not {len(box.tools)}.", "OUT_OF_RANGE")
        return
    seen = set[str]()
    for place, tool in enumerate(box.tools):
        where = f"{path}tools[{place}]"
        if not NAME.fullmatch(tool.name):
            rule = "A tool's name is 1 to 64 letters, digits, _ and -."
            yield FieldViolation(f"{where}.name", rule, "NAME_INVALID")
        if tool.name in seen:
            yield FieldViolation(f"{where}.name", f"There are two tools called {tool.name}.", "NAME_TAKEN")
        if tool.parameters is not None and tool.parameters.get("type", "object") != "object":
            yield FieldViolation(f"{where}.parameters", "Parameters are an object.", "TYPE_UNFIT")
        seen.add(tool.name)
    if box.mode == "required" and not box.tools:
        yield FieldViolation(f"{path}tool_choice.mode", "A call is required and there are no tools.", "TOOLS_MISSING")
    if box.mode == "function" and box.function not in box.names:
        yield FieldViolation(f"{path}tool_choice.function", f"There is no tool {box.function!r}.", "TOOL_UNKNOWN")


def tool_form(box: Toolbox, dialect: Dialect, response: Form | None, path: str) -> Form | None:
    """The form of an answer that may or must call tools; None where all is free.

    A required call always parses, and follows the parameters as far as they can be enforced; those of strict tools in
    full, wherever the model calls them. A form for the answer holds where no tool is called.

    Raises:
        Invalid: REQUEST_INVALID where a schema is too long.
    """
    places = list(enumerate(box.tools))
    if box.mode == "function":
        places = [(place, tool) for place, tool in places if tool.name == box.function]
    must = box.mode in ("required", "function")
    if not must and response is None and not any(tool.strict for _, tool in places):
        return None
    schemas = [_parameters(tool, f"{path}tools[{place}].parameters") for place, tool in places]
    repeats = dialect.may_repeat and not box.single and box.mode != "function"
    rules = list(_calls(dialect, [tool.name for _, tool in places], schemas, repeats=repeats))
    if must:
        rules.append("start: calls")
    elif response is not None:
        rules += ["start: calls | value", f"value: {response.schemas[0].rule}"]
        schemas += response.schemas
    elif dialect.opening:
        rules += [f"start: (lead {_behind_opening(dialect, repeats=repeats)})? TEXT?", TO_MARKER, "TEXT: /(.|\\n)*/"]
    else:
        rules += ["start: calls | TEXT", "TEXT: /[^{](.|\\n)*/"]
    return Form("\n".join(rules), tuple(schemas), marker=dialect.opening)


def _calls(dialect: Dialect, names: Sequence[str], schemas: Sequence[Schema], *, repeats: bool) -> Iterator[str]:
    for place, (name, schema) in enumerate(zip(names, schemas, strict=True)):
        head = _literal(f'{{"name": "{name}", "{dialect.arguments_key}": ')
        yield f'body_{place}: {head} {schema.rule} "}}"'
    yield "body: " + " | ".join(f"body_{place}" for place in range(len(names)))
    opening = f"{MARKER} " if dialect.opening else ""
    yield f"calls: {opening}{_behind_opening(dialect, repeats=repeats)}"


def _behind_opening(dialect: Dialect, *, repeats: bool) -> str:
    """Everything of the calls but the first opening mark."""
    if dialect.is_list:
        return '"[" body (", " body)* "]"' if repeats else '"[" body "]"'
    if not dialect.opening:
        return "body"
    close = _literal(f"\n{dialect.closing}")
    more = f' ("\\n" {MARKER} "\\n" body {close})*' if repeats else ""
    return f'"\\n" body {close}{more}'


def _parameters(tool: Tool, path: str) -> Schema:
    given = tool.parameters if tool.parameters is not None else {"additionalProperties": False}
    return Schema.of({"type": "object", **given}, path, strict=tool.strict)


def _literal(text: str) -> str:
    return orjson.dumps(text).decode()
