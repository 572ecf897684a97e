"""The tools of a chat completion, `tools` and `tool_choice`, as inference asks for them; and its calls, as chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue

from feinschliff.gateway.bodies import Body, problem
from feinschliff.gateway.errors import invalid
from feinschliff.gateway.forms import NAME, schema_struct
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb

TOOLS_MAX = 128
_MODES = {
    "none": common_pb2.ToolChoice.MODE_NONE,
    "auto": common_pb2.ToolChoice.MODE_AUTO,
    "required": common_pb2.ToolChoice.MODE_REQUIRED,
}


def _kind(given: object) -> object:
    if isinstance(given, dict) and given.get("type") not in ("function", None):
        kind = str(given["type"])[:40]
        raise problem("unsupported_parameter", f"tools of type '{kind}' are not served by this version")
    return given


class Function(Body):
    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class FunctionTool(Body):
    type: Literal["function"]
    function: Function


Tool = Annotated[FunctionTool, BeforeValidator(_kind)]


class Named(Body):
    name: str


class Choice(Body):
    """One function that must be called, or a choice among some of the tools."""

    class Allowed(Body):
        class One(Body):
            type: Literal["function"]
            function: Named

        mode: Literal["auto", "required"]
        tools: list[One] = Field(min_length=1, max_length=TOOLS_MAX)

    type: Literal["function", "allowed_tools"]
    function: Named | None = None
    allowed_tools: Allowed | None = None


ToolChoice = Literal["none", "auto", "required"] | Choice


def set_tools(request: pb.ChatRequest, tools: Sequence[FunctionTool], choice: ToolChoice | None) -> None:
    """Writes both into the request.

    Raises:
        ApiError: 400 where the choice names what is not among the tools.
    """
    if isinstance(choice, Choice) and choice.allowed_tools is not None:
        wanted = {one.function.name for one in choice.allowed_tools.tools}
        refuse_unknown(wanted, tools)
        tools = [tool for tool in tools if tool.function.name in wanted]
        choice = choice.allowed_tools.mode
    request.tools.extend(map(_message, tools))
    if isinstance(choice, str):
        request.tool_choice.mode = _MODES[choice]
    elif choice is not None:
        if choice.function is None:
            raise invalid("tool_choice", "'tool_choice' of this type names no function.")
        refuse_unknown({choice.function.name}, tools)
        request.tool_choice.mode = common_pb2.ToolChoice.MODE_FUNCTION
        request.tool_choice.function = choice.function.name


def refuse_unknown(wanted: set[str], tools: Sequence[FunctionTool]) -> None:
    for name in sorted(wanted - {tool.function.name for tool in tools}):
        raise invalid("tool_choice", f"Tool choice '{name[:64]}' is not among 'tools'.")


def call_chunk(delta: pb.ToolCallDelta) -> dict[str, JsonValue]:
    """What a chunk says of a call: who is called in its first piece, arguments in all."""
    function: dict[str, JsonValue] = {"arguments": delta.arguments_text}
    if not delta.id:
        return {"index": delta.index, "function": function}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": {"name": delta.name, **function}}


def _message(tool: FunctionTool) -> common_pb2.Tool:
    given = tool.function
    found = common_pb2.Tool(name=given.name, description=given.description or "", strict=bool(given.strict))
    if given.parameters is not None:
        found.parameters.CopyFrom(schema_struct(given.parameters))
    return found
