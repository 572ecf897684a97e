"""Messages with field options, described here so that no API has to change for a test."""

from functools import lru_cache
from typing import Any

from google.api import field_behavior_pb2 as behavior
from google.protobuf import descriptor_pb2, descriptor_pool, field_mask_pb2, message_factory
from google.protobuf.message import Message

PACKAGE = "feinschliff.kit.tests"
F = descriptor_pb2.FieldDescriptorProto
STRING, INT64, BOOL, DOUBLE, MESSAGE = F.TYPE_STRING, F.TYPE_INT64, F.TYPE_BOOL, F.TYPE_DOUBLE, F.TYPE_MESSAGE
REQUIRED, OUTPUT_ONLY = behavior.REQUIRED, behavior.OUTPUT_ONLY
IMMUTABLE, IDENTIFIER = behavior.IMMUTABLE, behavior.IDENTIFIER
MASK = ".google.protobuf.FieldMask"


def message(kind: str, /, **values: Any) -> Message:
    pool = _pool()
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{kind}"))(**values)


@lru_cache(maxsize=1)
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in (descriptor_pb2, behavior, field_mask_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(name="kit_tests.proto", package=PACKAGE, syntax="proto3")
    file.dependency.extend(["google/api/field_behavior.proto", "google/protobuf/field_mask.proto"])
    _job(file)
    _request(file)
    update = _message(file, "UpdateRequest")
    _field(update, "job", MESSAGE, REQUIRED, of="Job2")
    _field(update, "update_mask", MESSAGE, of=MASK)
    masked = _message(file, "Job2")
    _field(masked, "name", STRING, REQUIRED)
    _field(masked, "title", STRING, REQUIRED)
    _field(masked, "note", STRING)
    choice = _message(file, "Choice")
    choice.oneof_decl.add(name="side")
    for name in ("left", "right"):
        _field(choice, name, STRING, REQUIRED).oneof_index = 0
    numbers = _message(file, "Numbers")
    _field(numbers, "count", INT64, REQUIRED)
    _field(numbers, "flag", BOOL, REQUIRED)
    _field(numbers, "rate", DOUBLE, REQUIRED)
    explicit = _field(numbers, "explicit", INT64, REQUIRED)
    explicit.proto3_optional = True
    explicit.oneof_index = 0
    numbers.oneof_decl.add(name="_explicit")
    tree = _message(file, "Tree")
    _field(tree, "name", STRING, REQUIRED)
    _field(tree, "child", MESSAGE, of="Tree")
    _field(_message(file, "Plain"), "text", STRING)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _job(file: descriptor_pb2.FileDescriptorProto) -> None:
    job = _message(file, "Job")
    _field(job, "name", STRING, REQUIRED)
    _field(job, "state", INT64, OUTPUT_ONLY)
    _field(job, "note", STRING)
    _field(job, "child", MESSAGE, of="Settings")
    _field(job, "base", STRING, IMMUTABLE)
    _field(job, "id", STRING, IDENTIFIER)
    _field(job, "tags", STRING, repeated=True)
    labels = job.nested_type.add(name="LabelsEntry")
    labels.options.map_entry = True
    _field(labels, "key", STRING)
    _field(labels, "value", STRING)
    _field(job, "labels", MESSAGE, of="Job.LabelsEntry", repeated=True)
    settings = _message(file, "Settings")
    _field(settings, "state", INT64, OUTPUT_ONLY)
    _field(settings, "rate", DOUBLE)
    _field(settings, "steps", INT64)


def _request(file: descriptor_pb2.FileDescriptorProto) -> None:
    request = _message(file, "Request")
    _field(request, "parent", STRING, REQUIRED)
    _field(request, "job", MESSAGE, REQUIRED, of="Job")
    kind = _field(request, "kind", F.TYPE_ENUM, REQUIRED)
    kind.type_name = f".{PACKAGE}.Kind"
    kinds = file.enum_type.add(name="Kind")
    kinds.value.add(name="KIND_UNSPECIFIED", number=0)
    kinds.value.add(name="KIND_ONE", number=1)
    _field(request, "sizes", INT64, REQUIRED, repeated=True)
    _field(request, "jobs", MESSAGE, of="Job", repeated=True)
    entry = request.nested_type.add(name="ByKeyEntry")
    entry.options.map_entry = True
    _field(entry, "key", STRING)
    _field(entry, "value", MESSAGE, of="Job")
    _field(request, "by_key", MESSAGE, of="Request.ByKeyEntry", repeated=True)


def _message(file: descriptor_pb2.FileDescriptorProto, name: str) -> descriptor_pb2.DescriptorProto:
    return file.message_type.add(name=name)


def _field(
    owner: descriptor_pb2.DescriptorProto,
    name: str,
    kind: "F.Type.ValueType",
    *behaviors: int,
    of: str = "",
    repeated: bool = False,
) -> F:
    label = F.LABEL_REPEATED if repeated else F.LABEL_OPTIONAL
    field = owner.field.add(name=name, number=len(owner.field) + 1, type=kind, label=label)
    if of:
        field.type_name = of if of.startswith(".") else f".{PACKAGE}.{of}"
    if behaviors:
        field.options.Extensions[behavior.field_behavior].extend(behaviors)
    return field
