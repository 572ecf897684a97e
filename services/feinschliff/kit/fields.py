"""Field behaviour options as law: what a request lacks, and what only the server may set."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, cast

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

REQUIRED = field_behavior_pb2.REQUIRED
OUTPUT_ONLY = field_behavior_pb2.OUTPUT_ONLY
IMMUTABLE = field_behavior_pb2.IMMUTABLE
IDENTIFIER = field_behavior_pb2.IDENTIFIER
_MASK = "google.protobuf.FieldMask"
_NUMBERS = frozenset(
    {FieldDescriptor.CPPTYPE_BOOL, FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
    | {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
    | {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
)


class _Child(NamedTuple):
    field: FieldDescriptor
    is_map: bool


def missing_required(message: Message) -> list[str]:
    """Paths of REQUIRED fields that are not set, such as `training_job.recipe.method` or `items[2].name`.

    A nested field counts only where its parent is set, and a member of a oneof only where no other member is set.
    Numbers and bools without explicit presence cannot be missing: zero and false are values. Beside an `update_mask`
    only what the mask names must be there.
    """
    return list(_missing(message, "", None))


def clear_output_only(message: Message) -> None:
    """Clears OUTPUT_ONLY fields at every depth, as if the caller had not sent them."""
    if not _has_any(message.DESCRIPTOR, OUTPUT_ONLY):
        return
    for field in fields_of(message):
        if OUTPUT_ONLY in behaviors(field):
            message.ClearField(field.name)
    for _, _, child in _children(message):
        clear_output_only(child)


def fields_of(message: Message) -> Iterable[FieldDescriptor]:
    return cast(Iterable[FieldDescriptor], message.DESCRIPTOR.fields)


def behaviors(field: FieldDescriptor) -> frozenset[int]:
    return _behaviors(field.containing_type, field.name)


def _missing(message: Message, prefix: str, within: frozenset[str] | None) -> Iterator[str]:
    if not _has_any(message.DESCRIPTOR, REQUIRED):
        return
    for field in fields_of(message):
        if REQUIRED in behaviors(field) and (within is None or field.name in within) and _is_missing(message, field):
            yield prefix + field.name
    mask = _mask_of(message)
    for field, place, child in _children(message):
        inside = None if mask is None or child.DESCRIPTOR.full_name == _MASK else _names_in(mask)
        yield from _missing(child, f"{prefix}{field.name}{place}.", inside)


def _is_missing(message: Message, field: FieldDescriptor) -> bool:
    if field.is_repeated:
        return not getattr(message, field.name)
    oneof = field.containing_oneof
    if oneof is not None:
        return message.WhichOneof(oneof.name) is None
    if field.has_presence:
        return not message.HasField(field.name)
    return field.cpp_type not in _NUMBERS and not getattr(message, field.name)


def _mask_of(message: Message) -> list[str] | None:
    field = message.DESCRIPTOR.fields_by_name.get("update_mask")
    if field is None or field.message_type is None or field.message_type.full_name != _MASK:
        return None
    return list(message.update_mask.paths)  # type: ignore[attr-defined]


def _names_in(mask: Iterable[str]) -> frozenset[str] | None:
    names = frozenset(path.partition(".")[0] for path in mask)
    return None if "*" in names else names


def _children(message: Message) -> Iterator[tuple[FieldDescriptor, str, Message]]:
    for field, is_map in _message_fields(message.DESCRIPTOR):
        if is_map:
            for key, value in getattr(message, field.name).items():
                yield field, f"[{key!r}]", value
        elif field.is_repeated:
            for index, item in enumerate(getattr(message, field.name)):
                yield field, f"[{index}]", item
        elif message.HasField(field.name):
            yield field, "", getattr(message, field.name)


@lru_cache(maxsize=4096)
def _behaviors(message: Descriptor, name: str) -> frozenset[int]:
    options = message.fields_by_name[name].GetOptions()
    return frozenset(options.Extensions[field_behavior_pb2.field_behavior])


@lru_cache(maxsize=1024)
def _message_fields(message: Descriptor) -> tuple[_Child, ...]:
    children = []
    for field in message.fields:
        if field.message_type is None:
            continue
        is_map = bool(field.message_type.GetOptions().map_entry)
        if is_map and field.message_type.fields_by_name["value"].message_type is None:
            continue
        children.append(_Child(field, is_map))
    return tuple(children)


@lru_cache(maxsize=1024)
def _has_any(message: Descriptor, behavior: int) -> bool:
    seen, todo = set[str](), [message]
    while todo:
        current = todo.pop()
        if current.full_name in seen:
            continue
        seen.add(current.full_name)
        if any(behavior in behaviors(field) for field in current.fields):
            return True
        todo += [field.message_type for field in current.fields if field.message_type is not None]
    return False
