"""The contracts keep the promises of protos/README.md: comments, paging, masks, request ids, cursors, states."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from google.api import field_behavior_pb2, resource_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto

from protos.check import OPEN_INFERENCE, OURS, PROTOS, build_image, messages, read

Behavior = field_behavior_pb2.FieldBehavior
EMPTY = ".google.protobuf.Empty"
FIXED_LISTS = {"ListFormats"}  # a list made by hand is neither filtered nor sorted
MAKERS = {  # calls that make a resource or start long work, and are not called Create
    "AddFeedback", "AuditDatasetVersion", "CalibrateJudge", "CheckParity", "CombineAdapters", "DeriveDatasetVersion",
    "EraseSubject", "EvaluateGate", "ImportDatasetVersion", "ImportModel", "OptimizePrompt", "RecordCompletion",
    "ReproduceModelVersion", "RequestApproval", "RollbackAlias", "SetAlias", "VerifyModelVersion",
}  # fmt: skip
SERVER_TIMES = {"create_time", "update_time", "start_time", "finish_time", "ready_time"}
RECORDS = {"Completion", "Checkpoint"}  # told by whoever saw it happen, so the server does not set every time
LIMIT = re.compile(r"\d+ (bytes|KiB|MiB)")


class Rpc(NamedTuple):
    service: str
    name: str
    request: DescriptorProto
    response: DescriptorProto
    client_streaming: bool
    server_streaming: bool

    def __repr__(self) -> str:
        return self.name


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[descriptor_pb2.FileDescriptorProto]:
    return load(tmp_path_factory.mktemp("image"))


def load(folder: Path) -> list[descriptor_pb2.FileDescriptorProto]:
    image = read(build_image(PROTOS, folder / "contracts.binpb"))
    return [file for file in image.file if file.name.startswith(OURS)]


@pytest.fixture(scope="module")
def by_name(files: list[descriptor_pb2.FileDescriptorProto]) -> dict[str, DescriptorProto]:
    return dict(messages(descriptor_pb2.FileDescriptorSet(file=files)))


@pytest.fixture(scope="module")
def rpcs(files: list[descriptor_pb2.FileDescriptorProto], by_name: dict[str, DescriptorProto]) -> list[Rpc]:
    found = []
    for file in ours(files):
        for service in file.service:
            for method in service.method:
                request = by_name[method.input_type.removeprefix(".")]
                response = by_name.get(method.output_type.removeprefix("."), DescriptorProto(name="Empty"))
                streams = method.client_streaming, method.server_streaming
                found.append(Rpc(service.name, method.name, request, response, *streams))
    return found


@pytest.fixture(scope="module")
def resources(by_name: dict[str, DescriptorProto]) -> dict[str, DescriptorProto]:
    return {m.name: m for m in by_name.values() if m.options.HasExtension(resource_pb2.resource)}


def ours(files: list[descriptor_pb2.FileDescriptorProto]) -> list[descriptor_pb2.FileDescriptorProto]:
    return [file for file in files if file.name != OPEN_INFERENCE]


def fields(message: DescriptorProto) -> dict[str, FieldDescriptorProto]:
    return {field.name: field for field in message.field}


def behaviors(field: FieldDescriptorProto) -> set[int]:
    return set(field.options.Extensions[field_behavior_pb2.field_behavior])


def comments(file: descriptor_pb2.FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {tuple(at.path): at.leading_comments.strip() for at in file.source_code_info.location}


def elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every name in a file with its path in the descriptor (descriptor.proto, SourceCodeInfo.Location)."""
    for index, message in enumerate(file.message_type):
        yield from in_message(message, (4, index), message.name)
    for index, enum in enumerate(file.enum_type):
        yield from in_enum(enum, (5, index), enum.name)
    for index, service in enumerate(file.service):
        yield service.name, (6, index)
        for number, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (6, index, 2, number)


def in_message(message: DescriptorProto, path: tuple[int, ...], name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name, path
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, 2, index)
    for index, oneof in enumerate(message.oneof_decl):
        if not oneof.name.startswith("_"):  # made by the compiler for `optional`
            yield f"{name}.{oneof.name}", (*path, 8, index)
    for index, enum in enumerate(message.enum_type):
        yield from in_enum(enum, (*path, 4, index), f"{name}.{enum.name}")
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from in_message(nested, (*path, 3, index), f"{name}.{nested.name}")


def in_enum(enum: EnumDescriptorProto, path: tuple[int, ...], name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name, path
    for index, value in enumerate(enum.value):
        yield f"{name}.{value.name}", (*path, 2, index)


def test_every_service_call_message_field_and_value_says_what_it_is(
    files: list[descriptor_pb2.FileDescriptorProto],
) -> None:
    said = {(file.name, name): comments(file).get(path, "") for file in files for name, path in elements(file)}
    assert len(said) > 2000
    assert [name for (_, name), text in said.items() if len(text) < 4 or not text.endswith((".", ".)"))] == []


def test_bytes_have_a_limit_in_their_comment(files: list[descriptor_pb2.FileDescriptorProto]) -> None:
    found = 0
    for file in files:
        said = comments(file)
        paths = dict(elements(file))
        for name, message in messages(descriptor_pb2.FileDescriptorSet(file=[file])):
            short = name.removeprefix(f"{file.package}.")
            for field in message.field:
                if field.type == FieldDescriptorProto.TYPE_BYTES and not message.options.map_entry:
                    found += 1
                    assert LIMIT.search(said[paths[f"{short}.{field.name}"]]), f"{short}.{field.name}"
    assert found >= 6


def test_every_list_pages(rpcs: list[Rpc]) -> None:
    lists = [rpc for rpc in rpcs if rpc.name.startswith(("List", "Find"))]
    assert len(lists) >= 25
    for rpc in lists:
        asked, answered = fields(rpc.request), fields(rpc.response)
        assert {"parent", "page_size", "page_token"} <= asked.keys(), rpc
        assert Behavior.REQUIRED in behaviors(asked["parent"]), rpc
        assert "next_page_token" in answered, rpc
        assert rpc.response.field[0].label == FieldDescriptorProto.LABEL_REPEATED, rpc
        if rpc.name.startswith("List") and rpc.name not in FIXED_LISTS:
            assert {"filter", "order_by"} <= asked.keys(), rpc
            assert "total_size" in answered, rpc


def test_every_call_that_makes_something_can_be_repeated(rpcs: list[Rpc]) -> None:
    makers = [rpc for rpc in rpcs if rpc.name.startswith("Create") or rpc.name in MAKERS]
    assert {rpc.name for rpc in makers} >= MAKERS
    for rpc in makers:
        assert "request_id" in fields(rpc.request), rpc


def test_uploads_carry_a_request_id_in_their_header(by_name: dict[str, DescriptorProto]) -> None:
    assert {"request_id", "validate_only"} <= fields(by_name["feinschliff.v1.UploadHeader"]).keys()


def test_every_update_takes_a_mask_and_its_resource_an_etag(
    rpcs: list[Rpc], resources: dict[str, DescriptorProto]
) -> None:
    updates = [rpc for rpc in rpcs if rpc.name.startswith("Update")]
    assert len(updates) >= 6
    for rpc in updates:
        mask = fields(rpc.request)["update_mask"]
        assert mask.type_name == ".google.protobuf.FieldMask", rpc
        assert Behavior.REQUIRED in behaviors(mask), rpc
        assert "etag" in fields(resources[rpc.response.name]), rpc


def test_create_get_and_update_answer_with_the_resource_and_delete_with_nothing(
    rpcs: list[Rpc], resources: dict[str, DescriptorProto]
) -> None:
    for rpc in rpcs:
        for verb in ("Create", "Update"):
            if rpc.name.startswith(verb):
                assert rpc.response.name == rpc.name.removeprefix(verb), rpc
                assert rpc.response.name in resources, rpc
        if rpc.name.startswith("Delete"):
            assert rpc.response.name == "Empty", rpc


def test_every_watch_streams_with_a_cursor_on_both_sides(rpcs: list[Rpc]) -> None:
    watches = [rpc for rpc in rpcs if rpc.name.startswith("Watch") or rpc.name == "Commands"]
    assert len(watches) >= 12
    for rpc in watches:
        assert rpc.server_streaming, rpc
        assert not rpc.client_streaming, rpc
        for side in (rpc.request, rpc.response):
            assert fields(side)["cursor"].type == FieldDescriptorProto.TYPE_INT64, rpc


def test_long_work_shows_state_progress_and_failure_and_can_be_watched(
    rpcs: list[Rpc], resources: dict[str, DescriptorProto]
) -> None:
    watched = {rpc.name.removeprefix("Watch") for rpc in rpcs if rpc.name.startswith("Watch")}
    long = {name for name, message in resources.items() if "progress" in fields(message)}
    assert {"TrainingJob", "DatasetVersion", "EvalRun", "Deployment", "Export"} <= long
    assert long == watched
    for name in long:
        assert {"state", "failure", "etag"} <= fields(resources[name]).keys() or name in {"Audit", "Erasure"}, name


def test_states_begin_unspecified_and_only_the_server_moves_them(by_name: dict[str, DescriptorProto]) -> None:
    with_state = {name: m for name, m in by_name.items() if any(enum.name == "State" for enum in m.enum_type)}
    assert len(with_state) >= 15
    for name, message in with_state.items():
        enum = next(enum for enum in message.enum_type if enum.name == "State")
        assert (enum.value[0].name, enum.value[0].number) == ("STATE_UNSPECIFIED", 0), name
        assert all(value.name.startswith("STATE_") for value in enum.value), name
        assert behaviors(fields(message)["state"]) == {Behavior.OUTPUT_ONLY}, name


def test_resources_are_named_within_a_project(resources: dict[str, DescriptorProto]) -> None:
    assert len(resources) >= 25
    for name, message in resources.items():
        option = message.options.Extensions[resource_pb2.resource]
        assert option.type == f"feinschliff/{name}"
        assert all(pattern.startswith("projects/{project}/") for pattern in option.pattern), name
        assert behaviors(fields(message)["name"]) == {Behavior.IDENTIFIER}, name


def test_the_server_sets_its_times_itself(resources: dict[str, DescriptorProto]) -> None:
    for name, message in resources.items():
        for field in message.field:
            if field.name in SERVER_TIMES and name not in RECORDS:
                assert behaviors(field) == {Behavior.OUTPUT_ONLY}, f"{name}.{field.name}"


def test_nothing_is_both_required_and_set_by_the_server(by_name: dict[str, DescriptorProto]) -> None:
    for name, message in by_name.items():
        for field in message.field:
            assert not {Behavior.REQUIRED, Behavior.OUTPUT_ONLY} <= behaviors(field), f"{name}.{field.name}"


def test_no_json_hides_in_a_string(by_name: dict[str, DescriptorProto]) -> None:
    for name, message in by_name.items():
        for field in message.field:
            assert not (field.type == FieldDescriptorProto.TYPE_STRING and "json" in field.name), f"{name}.{field.name}"


@pytest.mark.parametrize("path", sorted((PROTOS / OURS).glob("*.proto")), ids=lambda path: path.stem)
def test_installed_stubs_are_made_from_these_contracts(
    path: Path, files: list[descriptor_pb2.FileDescriptorProto]
) -> None:
    stub = importlib.import_module(f"feinschliff.v1.{path.stem}_pb2")
    importlib.import_module(f"feinschliff.v1.{path.stem}_pb2_grpc")
    written = next(file for file in files if file.name == f"{OURS}/{path.name}")
    installed = descriptor_pb2.FileDescriptorProto.FromString(stub.DESCRIPTOR.serialized_pb)
    assert bare(installed) == bare(written), "the stubs are old: python setup.py stubs"


def bare(file: descriptor_pb2.FileDescriptorProto) -> bytes:
    """A file without comments and without the JSON names that the compiler adds."""
    copied = descriptor_pb2.FileDescriptorSet(file=[file])
    for _, message in messages(copied):
        for field in message.field:
            field.ClearField("json_name")
    copied.file[0].ClearField("source_code_info")
    return copied.SerializeToString(deterministic=True)
