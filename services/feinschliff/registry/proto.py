"""Between the contract and our own words."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from feinschliff.registry.combine import DENSITY_DEFAULT, Part, Wish
from feinschliff.registry.lineage import Graph
from feinschliff.registry.models import Draft, ModelView, VersionView
from feinschliff.registry.store import Alias, AliasMove, Export, Model
from feinschliff.v1 import common_pb2
from feinschliff.v1 import registry_pb2 as pb

_METHODS = {number: name.removeprefix("METHOD_").lower() for name, number in pb.CombineAdaptersRequest.Method.items()}
OWN_COLUMNS: tuple[Any, ...] = (
    "name",
    "state",
    "labels",
    "annotations",
    "aliases",
    "create_time",
    "etag",
    "deprecation_reason",
)


def to_draft(message: pb.ModelVersion) -> Draft:
    """The version as it comes in; what the server sets itself is left out of the record."""
    record = pb.ModelVersion()
    record.CopyFrom(message)
    for name in OWN_COLUMNS:
        record.ClearField(name)
    kind = message.kind or pb.ModelVersion.KIND_ADAPTER
    record.kind = kind
    return Draft(
        kind=pb.ModelVersion.Kind.Name(kind).removeprefix("KIND_").lower(),
        base_model=message.base_model,
        base_digest=message.base_digest,
        adapter_uri=message.adapter.uri,
        adapter_sha256=message.adapter.sha256,
        adapter_digest=message.adapter_digest or f"sha256:{message.adapter.sha256}",
        training_job=message.training_job,
        parent_version=message.parent_version,
        public_name=message.public_name,
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        datasets=[{"name": one.dataset_version, "sha256": one.sha256} for one in message.dataset_versions],
        record=MessageToDict(record, preserving_proto_field_name=True),
    )


def to_version(view: VersionView) -> pb.ModelVersion:
    version = view.version
    message = ParseDict(dict(version.record), pb.ModelVersion())
    message.name = version.name
    message.state = pb.ModelVersion.State.Value(f"STATE_{version.state.upper()}")
    message.adapter_digest = version.adapter_digest
    message.deprecation_reason = version.deprecation_reason
    message.labels.update(version.labels)
    message.annotations.update(version.annotations)
    message.aliases.extend(view.aliases)
    message.create_time.CopyFrom(stamp(version.created))
    message.etag = str(version.version)
    return message


def from_model(message: pb.Model, now: datetime) -> Model:
    return Model(
        name="",
        parent="",
        created=now,
        updated=now,
        display_name=message.display_name,
        description=message.description,
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        protected_aliases=list(message.protected_aliases),
        alias_gates=dict(message.alias_gates),
    )


def to_model(view: ModelView) -> pb.Model:
    model = view.model
    return pb.Model(
        name=model.name,
        display_name=model.display_name,
        description=model.description,
        labels=model.labels,
        annotations=model.annotations,
        protected_aliases=model.protected_aliases,
        alias_gates=model.alias_gates,
        latest_version=view.latest_version,
        version_count=view.version_count,
        create_time=stamp(model.created),
        update_time=stamp(model.updated),
        etag=str(model.version),
    )


def to_alias(alias: Alias) -> pb.Alias:
    return pb.Alias(
        name=alias.name,
        model_version=alias.model_version,
        reason=alias.reason,
        verdict=alias.verdict,
        create_time=stamp(alias.created),
        update_time=stamp(alias.updated),
        etag=str(alias.version),
    )


def to_move(move: AliasMove) -> pb.AliasMove:
    return pb.AliasMove(
        sequence=move.sequence,
        alias=move.alias,
        previous=move.previous,
        current=move.current,
        reason=move.reason,
        verdict=move.verdict,
        actor=move.actor,
        rollback=move.rollback,
        time=stamp(move.time),
    )


def to_graph(graph: Graph) -> pb.LineageGraph:
    message = pb.LineageGraph(
        edges=[pb.LineageEdge(source=one.source, target=one.target, relation=one.relation) for one in graph.edges],
        truncated=graph.truncated,
    )
    for node in graph.nodes:
        added = message.nodes.add(
            name=node.name, kind=node.kind, digest=node.digest, state=node.state.upper(), missing=node.missing
        )
        if node.created is not None:
            added.create_time.CopyFrom(stamp(node.created))
    return message


def to_combination(request: pb.CombineAdaptersRequest) -> Wish:
    method = request.method or pb.CombineAdaptersRequest.METHOD_LINEAR
    return Wish(
        [Part(one.model_version, one.weight if one.HasField("weight") else 1.0) for one in request.adapters],
        _METHODS.get(method, str(method)),
        request.density if request.HasField("density") else DENSITY_DEFAULT,
    )


def to_export(export: Export) -> pb.Export:
    message = pb.Export(
        name=export.name,
        state=pb.Export.State.Value(f"STATE_{export.state.upper()}"),
        format=pb.Export.FORMAT_ADAPTER,
        quantisation=pb.Export.QUANTISATION_NONE,
        result_version=export.result_version,
        register=True,
        progress=common_pb2.Progress(
            done=export.done,
            total=export.total,
            unit="layers",
            fraction=export.done / export.total if export.total else 0.0,
        ),
        create_time=stamp(export.created),
        etag=str(export.version),
    )
    if export.artifact_uri:
        message.artifact.uri, message.artifact.sha256 = f"{export.artifact_uri}/", export.artifact_sha256
        message.artifact.size_bytes = sum(entry["size_bytes"] for entry in export.files.values())
    for path, entry in sorted(export.files.items()):
        message.files.add(path=path, sha256=entry["sha256"], size_bytes=entry["size_bytes"])
    if export.failure:
        message.failure.CopyFrom(common_pb2.Failure(**export.failure))
    if export.finished is not None:
        message.finish_time.CopyFrom(stamp(export.finished))
    return message


def stamp(moment: datetime) -> Timestamp:
    result = Timestamp()
    result.FromDatetime(moment)
    return result
