"""A real ingestion process on a real S3 server, a client of it, and a look at everything that it keeps."""

from __future__ import annotations

import hashlib
import threading
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import orjson
from sqlalchemy import select

from feinschliff.ingestion.store import METADATA
from feinschliff.kit.db import Database
from feinschliff.kit.errors import NotFound, Refusal, from_rpc_error
from feinschliff.v1 import ingestion_pb2 as pb
from feinschliff.v1 import ingestion_pb2_grpc
from tests.support.ports import free_port
from tests.support.processes import RoomProcess, room_process
from tests.support.s3 import S3Server

CHUNK_BYTES = 64 * 1024


@dataclass
class Ingestion:
    """The process, where its things are, and how to ask it."""

    process: RoomProcess
    server: S3Server
    bucket: str
    database_url: str

    @contextmanager
    def stub(self) -> Iterator[ingestion_pb2_grpc.DatasetServiceStub]:
        with grpc.insecure_channel(self.process.address) as channel:
            yield ingestion_pb2_grpc.DatasetServiceStub(channel)

    def call(self, method: str, request: Any, timeout_seconds: float = 20) -> Any:
        """One unary call; raises the refusal that the service raised."""
        with self.stub() as stub:
            try:
                return getattr(stub, method)(request, timeout=timeout_seconds)
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error

    def stream(self, method: str, request: Any, timeout_seconds: float = 20) -> list[Any]:
        """All answers of a server stream."""
        with self.stub() as stub:
            try:
                return list(getattr(stub, method)(request, timeout=timeout_seconds))
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error

    def upload(
        self, data: bytes, dataset: str = "", *, chunk_bytes: int = CHUNK_BYTES, **header: Any
    ) -> pb.DatasetVersion:
        """Upload into `dataset`, which is made where it is missing."""
        parts = upload_parts(data, dataset or new_dataset(), chunk_bytes=chunk_bytes, **header)
        version: pb.DatasetVersion = self.call("UploadDatasetVersion", parts, timeout_seconds=60)
        return version

    def refused(self, data: bytes, dataset: str = "", **header: Any) -> Refusal:
        try:
            version = self.upload(data, dataset, **header)
        except Refusal as refusal:
            return refusal
        raise AssertionError(f"was not refused but became {version}")

    def rows(self, version: str, **request: Any) -> list[pb.Row]:
        answers = self.stream("ReadRows", pb.ReadRowsRequest(name=version, **request))
        return [row for answer in answers for row in answer.rows]

    def metrics(self) -> str:
        port = self.process.environment["FEINSCHLIFF_INGESTION_METRICS_PORT"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    def kept(self) -> dict[str, Any]:
        """Every object, every unfinished multipart upload and every row of every table."""
        client = self.server.client()
        objects = sorted(one.object_name or "" for one in client.list_objects(self.bucket, recursive=True))
        unfinished = client._list_multipart_uploads(self.bucket).uploads
        database = Database(self.database_url, "ingestion")
        try:
            with database.reading() as session:
                tables = {
                    name: [tuple(row) for row in session.execute(select(table))]
                    for name, table in METADATA.tables.items()
                }
        finally:
            database.close()
        return {"objects": objects, "unfinished": [one.object_name for one in unfinished], "tables": tables}


def ingestion_on(server: S3Server, bucket: str, folder: Path, database_url: str, **settings: str) -> Ingestion:
    """Not yet started; `settings` are environment names without the prefix, in small letters."""
    port, metrics_port = free_port(), free_port()
    environment = {
        **server.environment(bucket),
        "FEINSCHLIFF_HOME": str(folder / "home"),
        "FEINSCHLIFF_DATABASE_URL": database_url,
        "FEINSCHLIFF_INGESTION_PORT": str(port),
        "FEINSCHLIFF_INGESTION_METRICS_PORT": str(metrics_port),
        "FEINSCHLIFF_DRAIN_SECONDS": "0",
        "FEINSCHLIFF_GRACE_SECONDS": "5",
        **{f"FEINSCHLIFF_{name.upper()}": value for name, value in settings.items()},
    }
    process = room_process("ingestion", port, environment, folder, is_forked=True)
    return Ingestion(process, server, bucket, database_url)


def new_dataset() -> str:
    return f"projects/default/datasets/d-{uuid.uuid4().hex[:10]}"


def upload_parts(
    data: bytes, dataset: str, *, chunk_bytes: int = CHUNK_BYTES, **header: Any
) -> Iterator[pb.UploadDatasetVersionRequest]:
    wanted = {"create_dataset_if_missing": True, **header}
    yield pb.UploadDatasetVersionRequest(header=pb.UploadHeader(parent=dataset, **wanted))
    for start in range(0, len(data), chunk_bytes):
        yield pb.UploadDatasetVersionRequest(chunk=data[start : start + chunk_bytes])


def chat_row(number: int, **more: object) -> bytes:
    question, answer = f"Question {number}?", f"Answer {number}."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return orjson.dumps({"messages": messages, **more})


def chat_rows(count: int) -> list[bytes]:
    return [chat_row(number) for number in range(count)]


def file_of(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Dripping:
    """A client whose upload stays open until it is told to go on."""

    def __init__(self, ingestion: Ingestion, dataset: str, first: bytes, rest: bytes = b"", **header: Any) -> None:
        self._go = threading.Event()
        self._channel = grpc.insecure_channel(ingestion.process.address)
        self._parts = (first, rest)
        upload = self._channel.stream_unary(
            "/feinschliff.v1.DatasetService/UploadDatasetVersion",
            request_serializer=pb.UploadDatasetVersionRequest.SerializeToString,
            response_deserializer=pb.DatasetVersion.FromString,
        )
        self.call: Any = upload.future(self._send(dataset, header), timeout=60)

    def _send(self, dataset: str, header: dict[str, Any]) -> Iterator[pb.UploadDatasetVersionRequest]:
        first, rest = self._parts
        yield from upload_parts(first, dataset, **header)
        self._go.wait(50)
        yield from list(upload_parts(rest, dataset))[1:]

    def go_on(self) -> pb.DatasetVersion:
        self._go.set()
        version: pb.DatasetVersion = self.call.result()
        self._channel.close()
        return version

    def cancel(self) -> None:
        self.call.cancel()
        self._go.set()
        self._channel.close()


def processing(ingestion: Ingestion, dataset: str) -> list[pb.DatasetVersion]:
    """The dataset's versions that are being uploaded; none where the dataset is not there yet."""
    try:
        listed = ingestion.call("ListDatasetVersions", pb.ListDatasetVersionsRequest(parent=dataset))
    except NotFound:
        return []
    return [one for one in listed.dataset_versions if one.state == pb.DatasetVersion.STATE_PROCESSING]
