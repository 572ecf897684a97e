"""Update masks: which fields of a resource a caller changes, and which it may not."""

from collections.abc import Collection
from typing import TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.kit.fields import IDENTIFIER, IMMUTABLE, OUTPUT_ONLY, behaviors, fields_of

M = TypeVar("M", bound=Message)
_FIXED = frozenset({OUTPUT_ONLY, IMMUTABLE, IDENTIFIER})


def merged(current: M, patch: M, mask: FieldMask, *, immutable: Collection[str] = ()) -> M:
    """A copy of `current` in which the masked fields are those of `patch`.

    An empty mask takes every field that `patch` sets and that may change; `*` takes all that may change, also unset
    ones. A masked field that `patch` does not set is cleared. Paths go through messages, not into lists or maps.

    Args:
        immutable: top-level fields that may not change although the API does not mark them so.

    Raises:
        Invalid: MASK_PATH_UNKNOWN, MASK_PATH_FORBIDDEN; all bad paths are named.
    """
    result = type(current)()
    result.CopyFrom(current)
    for path in paths_of(patch, mask, immutable=immutable):
        _take(result, patch, path.split("."))
    return result


def paths_of(patch: Message, mask: FieldMask, *, immutable: Collection[str] = ()) -> list[str]:
    """The paths that a mask means, checked as in `merged`."""
    if not mask.paths or list(mask.paths) == ["*"]:
        names = [f.name for f in fields_of(patch) if not _is_fixed(f) and f.name not in immutable]
        return names if mask.paths else [name for name in names if _is_set(patch, name)]
    unknown, forbidden = [], []
    for path in mask.paths:
        fields = _fields_along(cast(Descriptor, patch.DESCRIPTOR), path)
        if fields is None:
            unknown.append(path)
        elif fields[0].name in immutable or any(_is_fixed(field) for field in fields):
            forbidden.append(path)
    if unknown:
        raise _refused("MASK_PATH_UNKNOWN", unknown, f"{patch.DESCRIPTOR.name} has no such field")
    if forbidden:
        raise _refused("MASK_PATH_FORBIDDEN", forbidden, "This field cannot be changed")
    return list(mask.paths)


def _refused(reason: str, paths: list[str], description: str) -> Invalid:
    return Invalid(
        reason,
        f"{description}: {', '.join(paths)}.",
        fields=[FieldViolation(f"update_mask.{path}", description, reason) for path in paths],
        paths=",".join(paths),
    )


def _fields_along(message: Descriptor | None, path: str) -> list[FieldDescriptor] | None:
    fields: list[FieldDescriptor] = []
    for part in path.split("."):
        if message is None or (fields and fields[-1].is_repeated):
            return None
        field = message.fields_by_name.get(part)
        if field is None:
            return None
        fields.append(field)
        message = field.message_type
    return fields


def _is_fixed(field: FieldDescriptor) -> bool:
    return bool(behaviors(field) & _FIXED)


def _is_set(message: Message, name: str) -> bool:
    return any(field.name == name for field, _ in message.ListFields())


def _take(target: Message, source: Message, parts: list[str]) -> None:
    name, rest = parts[0], parts[1:]
    if rest:
        if source.HasField(name) or target.HasField(name):
            _take(getattr(target, name), getattr(source, name), rest)
        return
    target.ClearField(name)
    if not _is_set(source, name):
        return
    field = target.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated or field.message_type is not None:
        part = type(source)()
        part.CopyFrom(source)
        for other in [f.name for f, _ in part.ListFields() if f.name != name]:
            part.ClearField(other)
        target.MergeFrom(part)
    else:
        setattr(target, name, getattr(source, name))
