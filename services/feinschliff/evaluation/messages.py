"""Conversations and JSON values, from our form to the API's and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from feinschliff.evaluation.resources import Sampling
from feinschliff.formats.records import Message, Role
from feinschliff.v1 import common_pb2 as common

_ROLES: Mapping[Role, common.Role.ValueType] = {
    "system": common.ROLE_SYSTEM,
    "developer": common.ROLE_DEVELOPER,
    "user": common.ROLE_USER,
    "assistant": common.ROLE_ASSISTANT,
    "tool": common.ROLE_TOOL,
    "function": common.ROLE_TOOL,
}
_ROLE_NAMES: Mapping[int, Role] = {number: name for name, number in _ROLES.items() if name != "function"}


def role_name(role: common.Role.ValueType) -> Role | None:
    return _ROLE_NAMES.get(role)


def role_number(role: Role) -> common.Role.ValueType:
    return _ROLES[role]


def to_message(message: Message) -> common.Message:
    """One turn as the API has it; a tool's answer and tool calls become parts of their own."""
    made = common.Message(role=_ROLES[message.role], name=message.name or "", weight=message.weight)
    if made.role == common.ROLE_TOOL:
        result = common.ToolResult(tool_call_id=message.tool_call_id or "", text=message.content or "")
        made.parts.add(tool_result=result)
    elif message.content is not None:
        made.parts.add(text=message.content)
    for call in message.tool_calls or ():
        made.parts.add(tool_call=_to_tool_call(call))
    return made


def from_message(message: common.Message) -> Message:
    """One turn in our form; texts of several parts are joined."""
    texts = [part.text for part in message.parts if part.HasField("text")]
    calls = [_from_tool_call(part.tool_call) for part in message.parts if part.HasField("tool_call")]
    results = [part.tool_result for part in message.parts if part.HasField("tool_result")]
    texts += [result.text for result in results]
    return Message(
        role=_ROLE_NAMES.get(message.role, "assistant"),
        content="".join(texts) if texts or not calls else None,
        weight=message.weight if message.HasField("weight") else None,
        name=message.name or None,
        tool_calls=calls or None,
        tool_call_id=results[0].tool_call_id if results else None,
    )


def from_struct(struct: Struct) -> dict[str, Any]:
    """The object as JSON values; numbers without a fraction are whole again, as they were written.

    A Struct has lost the order of its fields; they come by name, so that the same row always gives the same text.
    """
    return {key: _from_value(struct.fields[key]) for key in sorted(struct.fields)}


def to_struct(values: Mapping[str, object]) -> Struct:
    struct = Struct()
    struct.update(cast(dict[str, Any], values))
    return struct


def from_sampling(sampling: common.SamplingParams) -> Sampling:
    values: Sampling = MessageToDict(sampling, preserving_proto_field_name=True)
    return values


def to_sampling(sampling: Sampling) -> common.SamplingParams:
    return ParseDict(dict(sampling), common.SamplingParams())


def from_tool(tool: common.Tool) -> dict[str, Any]:
    values: dict[str, Any] = MessageToDict(tool, preserving_proto_field_name=True)
    if tool.HasField("parameters"):
        values["parameters"] = from_struct(tool.parameters)
    return values


def to_tool(tool: Mapping[str, object]) -> common.Tool:
    return ParseDict(dict(tool), common.Tool())


def _to_tool_call(call: Mapping[str, Any]) -> common.ToolCall:
    function = call.get("function") or {}
    made = common.ToolCall(id=str(call.get("id", "")), name=str(function.get("name", "")))
    text = function.get("arguments", "{}")
    try:
        arguments = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        arguments = None
    if isinstance(arguments, Mapping):
        made.arguments.update(dict(arguments))
    else:
        made.invalid_arguments = str(text)
    return made


def _from_tool_call(call: common.ToolCall) -> dict[str, Any]:
    arguments = call.invalid_arguments or json.dumps(from_struct(call.arguments), ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _from_value(value: Value) -> object:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return _from_list(value.list_value)
        case _:
            return None


def _from_list(values: ListValue) -> Sequence[object]:
    return [_from_value(value) for value in values.values]
