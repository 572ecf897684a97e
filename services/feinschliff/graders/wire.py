"""Definitions between their JSON, as OpenAI writes it, and the API's message; both ways lose nothing.

What a field may contain is checked by `grader.parse`; here only that the JSON has the message's fields and types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from feinschliff.graders.grade import is_number, quoted
from feinschliff.graders.judge_spec import read_content
from feinschliff.graders.spec import Spec, refused
from feinschliff.kit.errors import Invalid
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb

KINDS = tuple(field.name for field in pb.Grader.DESCRIPTOR.oneofs_by_name["kind"].fields)
DEPTH_MAX = 8
"""Of graders in each other; the shelf itself takes fewer."""
JSON_DEPTH_MAX = 24
"""Of objects and lists in each other; messages take no more."""
_INT, _TEXT, _BOOL, _ENUM = (
    {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64},
    {FieldDescriptor.TYPE_STRING},
    {FieldDescriptor.TYPE_BOOL},
    {FieldDescriptor.TYPE_ENUM},
)
_WORDS = {
    **dict.fromkeys(_INT, "a whole number"),
    **dict.fromkeys(_TEXT, "a string"),
    **dict.fromkeys(_BOOL, "true or false"),
}
_UNKNOWN = {"operation": "GRADER_OPERATION_UNKNOWN", "evaluation_metric": "GRADER_METRIC_UNKNOWN"}
_ALIASES = {("operation", "neq"): "ne"}
_SAMPLING = {"max_completions_tokens": "max_tokens", "max_completion_tokens": "max_tokens"}
_RENAMED = {"sampling_params": "sampling", "rate_limit": "requests_per_second"}


def to_message(spec: Spec, path: str = "grader", depth: int = 0) -> pb.Grader:
    """The message of a definition; `path` is where the definition stands in the request.

    Raises:
        Invalid: GRADER_FIELD_MISSING, GRADER_TYPE_UNKNOWN, GRADER_FIELD_UNKNOWN, GRADER_FIELD_TYPE,
            GRADER_OPERATION_UNKNOWN, GRADER_METRIC_UNKNOWN, GRADER_VALUE_UNKNOWN, GRADER_HEADERS_REFUSED or
            GRADER_NESTED_TOO_DEEP.
        Unserved: GRADER_CONTENT_UNSERVED.
    """
    if depth > DEPTH_MAX:
        raise refused("GRADER_NESTED_TOO_DEEP", path, f"Graders lie at most {DEPTH_MAX} levels deep.", depth=depth)
    kind, name = spec.get("type"), spec.get("name", "")
    if kind is None:
        raise refused("GRADER_FIELD_MISSING", f"{path}.type", "A grader needs 'type'.", name="type")
    if kind not in KINDS:
        message = f"{quoted(str(kind))} is no type of grader; it must be one of {', '.join(KINDS)}."
        raise refused("GRADER_TYPE_UNKNOWN", f"{path}.type", message, type=str(kind)[:80])
    if not isinstance(name, str):
        raise _wrong_type(f"{path}.name", "name", "a string")
    made = pb.Grader(name=name)
    inner: Message = getattr(made, str(kind))
    inner.SetInParent()
    for key, value in spec.items():
        if key not in ("type", "name") and value is not None:
            _set(inner, key, value, f"{path}.{key}", depth)
    return made


def from_message(grader: pb.Grader) -> Spec:
    """The definition as the shelf reads it; what is not set is left out, so that the shelf's defaults hold."""
    spec: dict[str, object] = {"name": grader.name}
    kind = grader.WhichOneof("kind")
    if kind is None:
        return spec
    inner = getattr(grader, kind)
    spec |= {"type": kind, **_fields(inner)}
    if kind == "multi":
        spec["graders"] = {name: from_message(one) for name, one in inner.graders.items()}
    elif kind == "score_model" and (inner.HasField("range_low") or inner.HasField("range_high")):
        low, high = spec.pop("range_low", 0.0), spec.pop("range_high", 1.0)
        spec["range"] = [low, high]
    if kind in ("score_model", "label_model") and (sampling := spec.pop("sampling", None)):
        spec["sampling_params"] = sampling
    return spec


def _set(inner: Message, key: str, value: object, path: str, depth: int) -> None:
    """One field of the JSON; the few that differ from the message's first."""
    kind = inner.DESCRIPTOR.name
    if key == "graders" and isinstance(inner, pb.MultiGrader):
        for name, one in _named(value, path).items():
            inner.graders[name].CopyFrom(to_message({"name": name, **one}, f"{path}.{name}", depth + 1))
    elif key == "input" and isinstance(inner, pb.ScoreModelGrader | pb.LabelModelGrader):
        for turn in read_content(value, path, is_nested=False):
            inner.input.add(role=_role(turn.role), text=turn.text)
    elif key == "range" and isinstance(inner, pb.ScoreModelGrader):
        if not isinstance(value, Sequence) or len(value) != 2 or not all(map(is_number, value)):
            raise _wrong_type(path, key, "a list of two numbers")
        inner.range_low, inner.range_high = value
    elif key == "headers" and isinstance(inner, pb.EndpointGrader):
        message = "Headers hold secrets and are not kept with a grader; name the installation's in headers_secret."
        raise refused("GRADER_HEADERS_REFUSED", path, message)
    else:
        field = inner.DESCRIPTOR.fields_by_name.get(_RENAMED.get(key, key))
        if field is None or key == "sampling":
            message = f"{_article(kind)} has no field {key!r}."
            raise refused("GRADER_FIELD_UNKNOWN", path, message, name=key)
        _put(inner, field, value, path)


def _put(inner: Message, field: Any, value: object, path: str) -> None:
    if field.is_repeated:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise _wrong_type(path, field.name, "a list of strings")
        getattr(inner, field.name).extend(_plain(field, one, f"{path}[{k}]") for k, one in enumerate(value))
    elif field.type != FieldDescriptor.TYPE_MESSAGE:
        setattr(inner, field.name, _plain(field, value, path))
    elif not isinstance(value, Mapping):
        raise _wrong_type(path, field.name, "an object")
    else:
        made = getattr(inner, field.name)
        made.SetInParent()
        if isinstance(made, Struct):
            fill(made, value, path)
            return
        for key, one in value.items():
            below = made.DESCRIPTOR.fields_by_name.get(_SAMPLING.get(key, key))
            if below is None or below.is_repeated or below.type == FieldDescriptor.TYPE_MESSAGE or key == "max_tokens":
                raise refused("GRADER_FIELD_UNKNOWN", f"{path}.{key}", f"{field.name} has no field {key!r}.", name=key)
            if one is not None:
                _put(made, below, one, f"{path}.{key}")


def _plain(field: Any, value: object, path: str) -> Any:
    if field.type in _ENUM and isinstance(value, str):
        names = _names(field.enum_type)
        known = _ALIASES.get((field.name, value), value)
        if known not in names:
            message = f"{quoted(value)} is not a {field.name}; it must be one of {', '.join(names)}."
            raise refused(_UNKNOWN.get(field.name, "GRADER_VALUE_UNKNOWN"), path, message, value=value[:80])
        return names[known]
    is_right = {
        "a whole number": isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31,
        "a string": isinstance(value, str),
        "true or false": isinstance(value, bool),
    }.get(_WORDS.get(field.type, ""), field.type not in _ENUM and is_number(value))
    if field.type == FieldDescriptor.TYPE_INT64:
        is_right = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if not is_right:
        raise _wrong_type(path, field.name, _WORDS.get(field.type, "a string" if field.type in _ENUM else "a number"))
    return value


def _names(enum: Any) -> dict[str, int]:
    """Its values as JSON has them: small letters, without the prefix and without the first, which means nothing."""
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values[1:]}


def _fields(message: Message) -> dict[str, object]:
    """What is set, by the names of the JSON; what lies in a multi grader is left to the caller."""
    made: dict[str, object] = {}
    for field, value in message.ListFields():
        name = "max_completions_tokens" if field.name == "max_tokens" else field.name
        if field.is_repeated and field.type == FieldDescriptor.TYPE_MESSAGE:
            if field.name == "input":
                made[name] = [{"role": _role_name(turn.role), "content": turn.text} for turn in value]
        elif field.is_repeated:
            made[name] = [_json(field, one) for one in value]
        elif isinstance(value, Struct):
            made[name] = _from_struct(value)
        elif isinstance(value, Message):
            made[name] = _fields(value)
        else:
            made[name] = _json(field, value)
    return made


def _json(field: Any, value: Any) -> object:
    if field.type not in _ENUM:
        return value
    return next((name for name, number in _names(field.enum_type).items() if number == value), str(value))


def _named(value: object, path: str) -> Mapping[str, Spec]:
    """Graders by name; a list of graders with names is taken too."""
    if isinstance(value, list) and all(isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in value):
        names = [one["name"] for one in value]
        if len(set(names)) < len(names):
            raise refused("GRADER_NAME_TAKEN", path, "Two graders in the list have the same name.", name=names[0])
        return {one["name"]: one for one in value}
    if not isinstance(value, Mapping) or not all(isinstance(one, Mapping) for one in value.values()):
        message = "'graders' must be an object of graders by name, such as {\"close\": {...}}; found something else."
        raise refused("GRADER_FIELD_TYPE", path, message, name="graders")
    return value


def fill(struct: Struct, value: Mapping[str, object], path: str) -> None:
    """A Struct of JSON values; raises Invalid GRADER_FIELD_TYPE where they lie too deep in each other."""
    for key, one in value.items():
        struct.fields[key].CopyFrom(_to_value(one, path, 1))


def _to_value(value: object, path: str, depth: int) -> Value:
    if depth > JSON_DEPTH_MAX:
        raise _wrong_type(path, path.rpartition(".")[2], f"JSON of at most {JSON_DEPTH_MAX} levels")
    match value:
        case None:
            return Value(null_value=0)  # type: ignore[arg-type]
        case bool():
            return Value(bool_value=value)
        case int() | float() if is_number(value):
            return Value(number_value=value)
        case str():
            return Value(string_value=value)
        case Mapping():
            made = Value(struct_value=Struct())
            for key, one in value.items():
                made.struct_value.fields[str(key)].CopyFrom(_to_value(one, path, depth + 1))
            return made
        case list() | tuple():
            made = Value()
            made.list_value.values.extend(_to_value(one, path, depth + 1) for one in value)
            return made
    raise _wrong_type(path, path.rpartition(".")[2], "JSON with finite numbers")


def _from_struct(struct: Struct) -> dict[str, object]:
    """By name, since a Struct has lost the order of its fields; whole numbers are whole again."""
    return {key: _from_value(struct.fields[key]) for key in sorted(struct.fields)}


def _from_value(value: Value) -> object:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        case "struct_value":
            return _from_struct(value.struct_value)
        case "list_value":
            return [_from_value(one) for one in value.list_value.values]
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
    return None


def _role(name: str) -> common.Role.ValueType:
    return common.Role.Value(f"ROLE_{name.upper()}")


def _role_name(role: common.Role.ValueType) -> str:
    return common.Role.Name(role).removeprefix("ROLE_").lower()


def _wrong_type(path: str, name: str, wanted: str) -> Invalid:
    return refused("GRADER_FIELD_TYPE", path, f"{name!r} must be {wanted}.", name=name)


def _article(kind: str) -> str:
    return f"A {kind.removesuffix('Grader')} grader"
