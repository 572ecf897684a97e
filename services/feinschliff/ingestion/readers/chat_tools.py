"""Tools in conversations: their declarations and the calls of them, in today's and in the old spelling."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from feinschliff.ingestion.readers.reader import Content, Problems, json_type, shown

_TOOL_KEYS = frozenset({"type", "function"})
_FUNCTION_KEYS = frozenset({"name", "description", "parameters", "strict"})
_CALL_KEYS = frozenset({"id", "type", "function"})
_CALLED_KEYS = frozenset({"name", "arguments"})


def normal_tools(row: Mapping[str, object], problems: Problems) -> list[Content]:
    """The declared tools; `functions` become tools of type `function`."""
    tools, functions = row.get("tools"), row.get("functions")
    if tools is not None and functions is not None:
        problems.add("invalid_tool", "functions", "`functions` is the old spelling of `tools`; a row has one of them")
    if tools is not None:
        if not isinstance(tools, list):
            problems.add("wrong_type", "tools", f"{json_type(tools)} where a list belongs")
            return []
        return [_tool(tool, f"tools[{index}]", problems) for index, tool in enumerate(tools)]
    if functions is None:
        return []
    if not isinstance(functions, list):
        problems.add("wrong_type", "functions", f"{json_type(functions)} where a list belongs")
        return []
    return [
        {"type": "function", "function": _function(function, f"functions[{index}]", problems)}
        for index, function in enumerate(functions)
    ]


def normal_tool_calls(
    message: Mapping[str, object], role: str, at: str, call_ids: set[str], problems: Problems
) -> list[Content]:
    """The calls that a message makes; their ids are added to `call_ids`."""
    calls, old = message.get("tool_calls"), message.get("function_call")
    if role != "assistant":
        for key, value in (("tool_calls", calls), ("function_call", old)):
            if value is not None:
                problems.add("message_unrecognized_key", at, f"only assistant messages have `{key}`")
        return []
    if old is not None:
        if calls is not None:
            problems.add("invalid_tool_call", f"{at}.function_call", "a message has `tool_calls` or `function_call`")
        return [{"type": "function", "function": _called(old, f"{at}.function_call", problems)}]
    if calls is None:
        return []
    if not isinstance(calls, list) or not calls:
        problems.add("wrong_type", f"{at}.tool_calls", "`tool_calls` is a list with at least one call")
        return []
    return [_call(call, f"{at}.tool_calls[{index}]", call_ids, problems) for index, call in enumerate(calls)]


def _tool(tool: object, at: str, problems: Problems) -> Content:
    if not isinstance(tool, dict):
        problems.add("wrong_type", at, f"{json_type(tool)} where an object belongs")
        return {}
    _refuse_keys(tool, _TOOL_KEYS, at, "invalid_tool", problems)
    if tool.get("type") != "function":
        problems.add("invalid_tool", f"{at}.type", "the type of a tool is `function`")
    return {"type": "function", "function": _function(tool.get("function"), f"{at}.function", problems)}


def _function(function: object, at: str, problems: Problems) -> Content:
    if not isinstance(function, dict):
        problems.add("invalid_tool", at, f"{json_type(function)} where an object with a `name` belongs")
        return {}
    _refuse_keys(function, _FUNCTION_KEYS, at, "invalid_tool", problems)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        problems.add("invalid_tool", f"{at}.name", "a function has a name")
    for key, kind, words in (
        ("description", str, "a string"),
        ("parameters", dict, "a JSON schema"),
        ("strict", bool, "true or false"),
    ):
        value = function.get(key)
        if value is not None and not isinstance(value, kind):
            problems.add("wrong_type", f"{at}.{key}", f"{json_type(value)} where {words} belongs")
    return {key: value for key, value in function.items() if value is not None}


def _call(call: object, at: str, call_ids: set[str], problems: Problems) -> Content:
    if not isinstance(call, dict):
        problems.add("wrong_type", at, f"{json_type(call)} where an object belongs")
        return {}
    _refuse_keys(call, _CALL_KEYS, at, "invalid_tool_call", problems)
    call_id = call.get("id")
    if not isinstance(call_id, str) or not call_id:
        problems.add("invalid_tool_call", f"{at}.id", "a call has an id, which the tool message repeats")
    elif call_id in call_ids:
        problems.add("invalid_tool_call", f"{at}.id", "an earlier call has the same id")
    else:
        call_ids.add(call_id)
    if call.get("type") != "function":
        problems.add("invalid_tool_call", f"{at}.type", "the type of a call is `function`")
    return {"id": call_id, "type": "function", "function": _called(call.get("function"), f"{at}.function", problems)}


def _called(function: object, at: str, problems: Problems) -> Content:
    if not isinstance(function, dict):
        problems.add("invalid_tool_call", at, f"{json_type(function)} where `name` and `arguments` belong")
        return {}
    _refuse_keys(function, _CALLED_KEYS, at, "invalid_tool_call", problems)
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        problems.add("invalid_tool_call", f"{at}.name", "a call names its function")
    if not isinstance(arguments, str):
        problems.add("invalid_tool_call", f"{at}.arguments", f"{json_type(arguments)} where JSON in a string belongs")
    elif not _is_json_object(arguments):
        problems.add("invalid_tool_call", f"{at}.arguments", "the string is not a JSON object")
    return {"name": name, "arguments": arguments}


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _refuse_keys(found: Mapping[str, object], known: frozenset[str], at: str, code: str, problems: Problems) -> None:
    for key in found:
        if key not in known:
            problems.add(code, at, f"the key {shown(key)} is not known here")
