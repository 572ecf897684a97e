"""What training asks of other rooms, over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from feinschliff.artifacts import bases
from feinschliff.artifacts.store import Store
from feinschliff.artifacts.uri import parse_s3
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.objectives import HEADED
from feinschliff.formats.recipe import Recipe
from feinschliff.formats.records import Record
from feinschliff.formats.report import Result
from feinschliff.kit.client import sync_channel
from feinschliff.kit.errors import FieldViolation, Refusal, from_rpc_error
from feinschliff.kit.metrics import Metrics
from feinschliff.training.continued import VersionFacts
from feinschliff.training.jobs import DatasetFacts
from feinschliff.training.outcomes import model_of
from feinschliff.training.proto import RECIPE_PATH, from_recipe, to_adaptation
from feinschliff.training.rows import Drawn
from feinschliff.training.store import Job
from feinschliff.v1 import common_pb2, ingestion_pb2, ingestion_pb2_grpc, registry_pb2, registry_pb2_grpc

DATASETS = "feinschliff.v1.DatasetService"
SAMPLE_ROWS_MAX = 1000  # of one answer of ingestion
SAMPLE_BYTES_MAX = 8 * 1024 * 1024  # well below the largest message
READ_SECONDS = 60.0
REGISTRY = "feinschliff.v1.RegistryService"
_KINDS = {"full": registry_pb2.ModelVersion.KIND_FULL}  # by what was trained; anything else goes onto its base


class IngestionClient:
    """Data set versions, read from ingestion."""

    def __init__(self, address: str, metrics: Metrics | None = None) -> None:
        channel = sync_channel(address, name="ingestion", services=[DATASETS], metrics=metrics)
        self._stub = ingestion_pb2_grpc.DatasetServiceStub(channel)

    def version(self, name: str) -> DatasetFacts:
        with refusals():
            found = self._stub.GetDatasetVersion(ingestion_pb2.GetDatasetVersionRequest(name=name))
        return DatasetFacts(
            name=found.name,
            ready=found.state == ingestion_pb2.DatasetVersion.STATE_READY,
            sha256=found.sha256,
            prefix=found.name,
            rows_by_split=dict(found.rows_by_split),
            format=format_word(found.format),
            train_tokens=found.tokens * found.rows_by_split.get("train", 0) // max(1, found.rows),
        )

    def draw(self, dataset_version: str, splits: Sequence[str], rows_max: int) -> Drawn:
        """See `rows.RowSource`."""
        with refusals():
            found = self._stub.GetDatasetVersion(ingestion_pb2.GetDatasetVersionRequest(name=dataset_version))
            sizes = {split: found.rows_by_split.get(split, 0) for split in splits}
            in_all = sum(sizes.values())
            row_bytes = found.source.size_bytes / found.rows if found.rows else 0.0
            records: list[Record] = []
            for split, rows in sizes.items():
                wanted = rows if in_all <= rows_max else -(-rows * rows_max // in_all)
                records += read_split(self._stub, dataset_version, split, wanted, rows=rows, row_bytes=row_bytes)
        return Drawn(records, in_all)


def format_word(row_format: ingestion_pb2.RowFormat.ValueType) -> str:
    """`chat`; empty where it is not said."""
    if row_format == ingestion_pb2.ROW_FORMAT_UNSPECIFIED:
        return ""
    return ingestion_pb2.RowFormat.Name(row_format).removeprefix("ROW_FORMAT_").lower()


class RegistryClient:
    """Model versions, read from and added to the registry."""

    def __init__(self, address: str, metrics: Metrics | None = None) -> None:
        channel = sync_channel(address, name="registry", services=[REGISTRY], metrics=metrics)
        self._stub = registry_pb2_grpc.RegistryServiceStub(channel)

    def version(self, name: str) -> VersionFacts:
        with refusals():
            found = self._stub.GetModelVersion(registry_pb2.GetModelVersionRequest(name=name))
        return VersionFacts(
            name=found.name,
            base_model=found.base_model,
            base_digest=found.base_digest,
            adapter_prefix=parse_s3(found.adapter.uri)[1],
            adaptation=to_adaptation(found.recipe),
        )

    def register(self, job: Job, manifest: Manifest, adapter: common_pb2.ArtifactRef, task: str = "") -> str:
        """The name of the version that a result of this job became; asking twice gives the same one."""
        project, model = job.parent.split("/")[1], model_of(job.recipe, job.name, task)
        request = registry_pb2.CreateModelVersionRequest(
            parent=f"projects/{project}/models/{model}",
            model_version=version_of(job, Result.model_validate(manifest.meta), adapter, task),
            create_model_if_missing=True,
            request_id=f"{job.uid}-{job.recipe.tasks.index(task)}" if task else job.uid,
        )
        with refusals():
            return self._stub.CreateModelVersion(request).name


def kind_of(recipe: Recipe) -> registry_pb2.ModelVersion.Kind.ValueType:
    """What the files of a result hold; a head is told before what it stands on."""
    if recipe.objective.kind in HEADED:
        return registry_pb2.ModelVersion.KIND_CLASSIFIER
    return _KINDS.get(recipe.adaptation.kind, registry_pb2.ModelVersion.KIND_ADAPTER)


def version_of(job: Job, result: Result, adapter: common_pb2.ArtifactRef, task: str = "") -> registry_pb2.ModelVersion:
    """All that a version records of its making; of a task with an adapter of its own, by its data alone."""
    datasets = zip(job.recipe.data, job.inputs["datasets"], strict=True)
    return registry_pb2.ModelVersion(
        kind=kind_of(job.recipe),
        base_model=result.base_model,
        base_digest=result.base_digest,
        adapter=adapter,
        adapter_digest=result.adapter_digest,
        training_job=job.name,
        parent_version=str(job.inputs["parent_version"]),
        dataset_versions=[_dataset(one) for source, one in datasets if task in ("", source.task_name)],
        recipe=from_recipe(job.recipe),
        code_version=result.code_version,
        chat_template_hash=result.chat_template_hash,
        tokenizer_hash=result.tokenizer_hash,
        stop_token_ids=result.stop_token_ids,
        golden_probes=[registry_pb2.GoldenProbe(**probe.model_dump()) for probe in result.golden_probes],
        metrics={
            **result.metrics,
            "steps": result.steps,
            "epochs": result.epochs,
            "trained_tokens": result.trained_tokens,
            "best_step": result.best_step,
            "seconds": result.seconds,
            **({} if result.energy_joules is None else {"energy_joules": result.energy_joules}),
        },
        environment={"hardware": result.hardware, **result.packages},
        labels={**({"task": task} if task else {}), **job.labels},
    )


def base_check(store: Store, *, offline: bool, local: bool) -> Callable[[str], None]:
    """Refuses a base that cannot be had, before a job is made.

    Args:
        local: whether attempts run on this machine.
    """

    def check(uri: str) -> None:
        try:
            bases.look(uri, store, offline=offline, local=local)
        except Refusal as refusal:
            refusal.fields = (FieldViolation(f"{RECIPE_PATH}.base_model", refusal.message, refusal.reason),)
            raise

    return check


def read_split(
    stub: ingestion_pb2_grpc.DatasetServiceStub, name: str, split: str, wanted: int, *, rows: int, row_bytes: float
) -> Iterator[Record]:
    """All rows of a split, or as many random ones as one answer holds."""
    number = common_pb2.Split.Value(f"SPLIT_{split.upper()}")
    if wanted >= rows:
        request = ingestion_pb2.ReadRowsRequest(name=name, split=number)
        yield from (record_of(row) for part in stub.ReadRows(request, timeout=READ_SECONDS) for row in part.rows)
        return
    count = max(1, min(wanted, SAMPLE_ROWS_MAX, round(SAMPLE_BYTES_MAX / max(1.0, row_bytes))))
    drawn = stub.SampleRows(ingestion_pb2.SampleRowsRequest(name=name, split=number, count=count))
    yield from (record_of(row) for row in drawn.rows)


def record_of(row: ingestion_pb2.Row) -> Record:
    return Record.model_validate({**whole_numbers(MessageToDict(row.data)), "line": row.line})


def whole_numbers(value: Any) -> Any:
    """A Struct knows only fractions; 1.0 is 1 again, as it was in the row."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: whole_numbers(item) for key, item in value.items()}
    return [whole_numbers(item) for item in value] if isinstance(value, list) else value


@contextmanager
def refusals() -> Iterator[None]:
    """Lets another service's refusal pass as our own."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def _dataset(facts: Mapping[str, Any]) -> registry_pb2.DatasetVersionRef:
    return registry_pb2.DatasetVersionRef(
        dataset_version=facts["name"], sha256=facts["sha256"], rows=facts["rows"], weight=facts["weight"]
    )
