"""The turns of a conversation: roles, contents, weights, and who may carry what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feinschliff.formats.records import ROLES
from feinschliff.ingestion.readers.chat_tools import normal_tool_calls
from feinschliff.ingestion.readers.reader import Content, Problems, json_type, shown

_MESSAGE_KEYS = frozenset({"role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call"})
_UNSET_KEYS = frozenset({"refusal", "audio", "annotations"})  # dumps of answers carry these, null or empty
_MAY_BE_EMPTY = frozenset({"tool", "function"})
_NAME_CHARACTERS_MAX = 64


def normal_messages(messages: Sequence[object], problems: Problems) -> list[Content]:
    """All turns in normal form; what is wrong is added to `problems`."""
    call_ids: set[str] = set()
    normal = [_message(message, f"messages[{index}]", call_ids, problems) for index, message in enumerate(messages)]
    if not problems:
        _check_answers([message for message in normal if message["role"] == "assistant"], problems)
    return normal


def _check_answers(answers: Sequence[Content], problems: Problems) -> None:
    if not answers:
        problems.add("example_missing_assistant_message", "messages", "no message has the role `assistant`")
    elif all(answer.get("weight") == 0 for answer in answers):
        problems.add("nothing_to_train", "messages", "every assistant message has the weight 0")


def _message(message: object, at: str, call_ids: set[str], problems: Problems) -> Content:
    if not isinstance(message, dict):
        problems.add("wrong_type", at, f"{json_type(message)} where an object belongs")
        return {}
    for key, value in message.items():
        if key not in _MESSAGE_KEYS and not (key in _UNSET_KEYS and not value):
            problems.add("message_unrecognized_key", at, f"the key {shown(key)} is not known in a message")
    role = _role(message, at, problems)
    if role is None:
        return {}
    normal: Content = {"role": role}
    calls = normal_tool_calls(message, role, at, call_ids, problems)
    content = _content(message, role, bool(calls), at, problems)
    if content is not None:
        normal["content"] = content
    if calls:
        normal["tool_calls"] = calls
    _add_weight(message, role, at, normal, problems)
    _add_name(message, role, at, normal, problems)
    _add_tool_call_id(message, role, at, call_ids, normal, problems)
    return normal


def _role(message: Mapping[str, object], at: str, problems: Problems) -> str | None:
    role = message.get("role")
    if role is None:
        problems.add("message_missing_key", f"{at}.role", "the message has no `role`")
        return None
    if not isinstance(role, str):
        problems.add("wrong_type", f"{at}.role", f"{json_type(role)} where a string belongs")
        return None
    if role not in ROLES:
        problems.add("unrecognized_role", f"{at}.role", f"the role {shown(role)} is not known")
        return None
    return role


def _content(message: Mapping[str, object], role: str, has_calls: bool, at: str, problems: Problems) -> str | None:
    content = message.get("content")
    if content is None:
        if not has_calls:
            problems.add("missing_content", f"{at}.content", f"the {role} message has no `content`")
        return None
    if isinstance(content, list):
        content = _joined_parts(content, f"{at}.content", problems)
    elif not isinstance(content, str):
        problems.add("wrong_type", f"{at}.content", f"{json_type(content)} where a string or a list of parts belongs")
        return None
    if content is not None and not content.strip() and role not in _MAY_BE_EMPTY:
        if not has_calls:
            problems.add("empty_content", f"{at}.content", f"the {role} message says nothing")
        return None
    return content


def _joined_parts(parts: Sequence[object], at: str, problems: Problems) -> str | None:
    texts: list[str] = []
    for index, part in enumerate(parts):
        where = f"{at}[{index}]"
        if not isinstance(part, dict):
            problems.add("wrong_type", where, f"{json_type(part)} where an object belongs")
        elif part.get("type") != "text":
            kind = part.get("type")
            what = shown(kind) if isinstance(kind, str) else json_type(kind)
            problems.add("unsupported_content_part", f"{where}.type", f"parts of type {what} cannot be trained on")
        elif not isinstance(text := part.get("text"), str):
            problems.add("wrong_type", f"{where}.text", f"{json_type(text)} where a string belongs")
        elif len(part) > 2:
            problems.add("message_unrecognized_key", where, "a text part has the keys `type` and `text` only")
        else:
            texts.append(text)
    return "".join(texts) if len(texts) == len(parts) else None


def _add_weight(message: Mapping[str, object], role: str, at: str, normal: Content, problems: Problems) -> None:
    weight = message.get("weight")
    if weight is None:
        return
    if role != "assistant":
        problems.add("invalid_weight", f"{at}.weight", f"a {role} message is never trained on and has no weight")
    elif type(weight) is not int or weight not in (0, 1):
        problems.add("invalid_weight", f"{at}.weight", "the weight is neither 0 nor 1")
    else:
        normal["weight"] = weight


def _add_name(message: Mapping[str, object], role: str, at: str, normal: Content, problems: Problems) -> None:
    name = message.get("name")
    if name is None:
        if role == "function":
            problems.add("message_missing_key", f"{at}.name", "a function message names its function")
    elif not isinstance(name, str) or not 1 <= len(name) <= _NAME_CHARACTERS_MAX:
        problems.add("wrong_type", f"{at}.name", f"a name is a string of 1 to {_NAME_CHARACTERS_MAX} characters")
    else:
        normal["name"] = name


def _add_tool_call_id(
    message: Mapping[str, object], role: str, at: str, call_ids: set[str], normal: Content, problems: Problems
) -> None:
    call_id = message.get("tool_call_id")
    if role != "tool":
        if call_id is not None:
            problems.add("message_unrecognized_key", at, f"a {role} message has no `tool_call_id`")
    elif call_id is None:
        problems.add("message_missing_key", f"{at}.tool_call_id", "a tool message names the call that it answers")
    elif not isinstance(call_id, str):
        problems.add("wrong_type", f"{at}.tool_call_id", f"{json_type(call_id)} where a string belongs")
    elif call_id not in call_ids:
        problems.add("unknown_tool_call_id", f"{at}.tool_call_id", "no earlier message calls a tool by this id")
    else:
        normal["tool_call_id"] = call_id
