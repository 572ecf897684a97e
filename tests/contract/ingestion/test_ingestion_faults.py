"""Ingestion killed at any moment, or left without its store: afterwards all is whole or gone, and it serves again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from feinschliff.ingestion.store import METADATA
from feinschliff.kit.errors import Refusal, TimedOut, Unavailable
from feinschliff.v1 import ingestion_pb2 as pb
from tests.contract.ingestion.running import Ingestion, chat_rows, file_of, ingestion_on, new_dataset, upload_parts
from tests.support.s3 import S3Outage, S3Server
from tests.support.waiting import eventually

MEGABYTES = file_of(chat_rows(120_000))  # more than one part of a multipart upload
Start = Callable[..., Ingestion]


@pytest.fixture
def start(s3_server: S3Server, s3_bucket: str, tmp_path: Path, tiny_model: Path) -> Iterator[Start]:
    """Starts an ingestion process with some settings; further ones share its database and its bucket."""
    started: list[Ingestion] = []

    def begin(**settings: str) -> Ingestion:
        usual = {
            "ingestion_tokenizer_base": f"file:{tiny_model}",
            "ingestion_lease_seconds": "2",
            "ingestion_cleanup_seconds": "0.2",
            "ingestion_unfinished_seconds": "60",
        }
        database_url = f"sqlite:///{tmp_path / 'ingestion.db'}"
        one = ingestion_on(s3_server, s3_bucket, tmp_path, database_url, **{**usual, **settings})
        one.process.start_and_wait()
        started.append(one)
        return one

    yield begin
    for one in started:
        one.process.close()


def nothing() -> dict[str, Any]:
    return {"objects": [], "unfinished": [], "tables": {name: [] for name in METADATA.tables}}


def upload_until_it_breaks(ingestion: Ingestion, data: bytes, dataset: str, **header: Any) -> None:
    with pytest.raises(Refusal):
        ingestion.upload(data, dataset, chunk_bytes=200_000, **header)


def test_killed_in_the_middle_of_an_upload_leaves_nothing_after_the_restart(start: Start) -> None:
    ingestion = start()
    on_its_way, hold = threading.Event(), threading.Event()

    def parts() -> Iterator[pb.UploadDatasetVersionRequest]:
        yield from upload_parts(MEGABYTES, new_dataset(), chunk_bytes=500_000)
        on_its_way.set()
        hold.wait(30)

    with ingestion.stub() as stub:
        call = stub.UploadDatasetVersion.future(parts(), timeout=60)
        on_its_way.wait(30)
        eventually(lambda: ingestion.kept()["tables"]["ingestion_versions"], 60, "the upload's row")
        eventually(lambda: ingestion.kept()["unfinished"], 60, "a part in the store")
        ingestion.process.kill()
        hold.set()
        with pytest.raises(grpc.RpcError):
            call.result()
    again = start(ingestion_unfinished_seconds="0.5")
    eventually(lambda: again.kept() == nothing(), 30, "a clean store")
    assert again.upload(file_of(chat_rows(60))).rows == 60


@pytest.mark.parametrize("place", ["upload.before_store", "upload.before_commit", "artifacts.before_manifest"])
def test_killed_before_the_commit_leaves_nothing_and_the_same_request_works_again(start: Start, place: str) -> None:
    doomed, dataset, data = start(failpoints=f"{place}=kill"), new_dataset(), file_of(chat_rows(60))
    upload_until_it_breaks(doomed, data, dataset, request_id="r")
    eventually(lambda: doomed.process.running is not None and doomed.process.running.poll() == -signal.SIGKILL)
    other = start()
    eventually(lambda: other.kept() == nothing(), 30, "a clean store")
    assert other.upload(data, dataset, request_id="r").name == f"{dataset}/versions/1"


def test_killed_after_the_commit_keeps_the_version_and_the_same_request_gets_it(start: Start) -> None:
    doomed, dataset, data = start(failpoints="upload.after_commit=kill"), new_dataset(), file_of(chat_rows(60))
    upload_until_it_breaks(doomed, data, dataset, request_id="r")
    other = start()
    version = other.upload(data, dataset, request_id="r")
    assert (version.name, version.rows) == (f"{dataset}/versions/1", 60)
    kept = other.kept()
    files = [name.rsplit("/", 1)[1] for name in kept["objects"]]
    assert files == ["manifest.json", "source", "train.jsonl", "validation.jsonl"]
    assert len(kept["tables"]["ingestion_versions"]) == 1
    assert len(other.rows(version.name)) == 60


def test_another_process_leaves_a_living_upload_alone(start: Start) -> None:
    first, second = start(), start()
    dataset, hold = new_dataset(), threading.Event()

    def parts() -> Iterator[pb.UploadDatasetVersionRequest]:
        yield from upload_parts(file_of(chat_rows(60)), dataset)
        hold.wait(30)

    with first.stub() as stub:
        call = stub.UploadDatasetVersion.future(parts(), timeout=60)
        eventually(lambda: first.kept()["tables"]["ingestion_versions"], 60, "the upload's row")
        lease = lease_of(second)
        eventually(lambda: lease_of(second) > lease, 60, "a renewed lease")
        lease = lease_of(second)
        eventually(lambda: lease_of(second) > lease, 60, "another renewed lease")
        hold.set()
        assert call.result().state == pb.DatasetVersion.STATE_READY


def lease_of(ingestion: Ingestion) -> Any:
    (row,) = ingestion.kept()["tables"]["ingestion_versions"]
    return row[5]


def test_removal_that_was_cut_short_is_finished_after_the_restart(start: Start) -> None:
    ingestion, dataset = start(), new_dataset()
    ingestion.upload(file_of(chat_rows(60)), dataset)
    ingestion.process.kill()
    forget(ingestion, dataset)
    assert len(ingestion.kept()["objects"]) == 4
    ingestion.process.restart()
    eventually(lambda: ingestion.kept() == nothing(), 30, "a clean store")


def forget(ingestion: Ingestion, dataset: str) -> None:
    """What DeleteDataset has done when it dies between its two steps."""
    from datetime import UTC, datetime

    from feinschliff.ingestion import store as tables
    from feinschliff.kit.db import Database

    database = Database(ingestion.database_url, "ingestion")
    with database.transaction() as session:
        there = tables.read_dataset(session, "default", dataset.rsplit("/", 1)[1])
        assert there is not None
        tables.delete_dataset(session, there)
        tables.insert_removal(session, there.name, datetime.now(UTC))
    database.close()


def test_health_follows_the_store_and_uploads_during_an_outage_leave_nothing(
    s3_outage: S3Outage, tmp_path: Path, tiny_model: Path
) -> None:
    ingestion = ingestion_on(
        s3_outage.server,
        s3_outage.bucket,
        tmp_path,
        f"sqlite:///{tmp_path / 'ingestion.db'}",
        ingestion_tokenizer_base=f"file:{tiny_model}",
        ingestion_lease_seconds="1",
        ingestion_cleanup_seconds="0.2",
        check_seconds="0.2",
    )
    try:
        ingestion.process.start_and_wait()
        version = ingestion.upload(file_of(chat_rows(60)))
        s3_outage.stop()
        ingestion.process.wait_not_serving()
        refusal = ingestion.refused(file_of(chat_rows(60)))
        assert isinstance(refusal, Unavailable)
        assert refusal.reason == "STORE_UNAVAILABLE"
        s3_outage.start()
        ingestion.process.wait_serving()
        names = {"datasets": 1, "versions": 1, "removals": 0, "requests": 0}
        eventually(
            lambda: {name: len(ingestion.kept()["tables"][f"ingestion_{name}"]) for name in names} == names,
            30,
            "the failed upload's end",
        )
        assert len(ingestion.kept()["objects"]) == 4
        assert len(ingestion.rows(version.name)) == 60
        assert ingestion.upload(file_of(chat_rows(60))).rows == 60
    finally:
        ingestion.process.close()


def test_metrics_and_health_are_there_and_sigterm_ends_well(start: Start) -> None:
    ingestion = start()
    ingestion.upload(file_of(chat_rows(60)))
    ingestion.upload(file_of([*chat_rows(60), b"{"]), on_bad_row=pb.ON_BAD_ROW_SKIP)
    ingestion.refused(file_of([*chat_rows(60), b"{", b"{"]))
    assert ingestion.process.health("feinschliff.v1.DatasetService") == "SERVING"
    text = ingestion.metrics()
    assert 'grpc_server_handled_total{grpc_code="OK",grpc_method="UploadDatasetVersion"' in text
    assert 'feinschliff_ingestion_uploads_total{outcome="stored"} 2.0' in text
    for outcome, rows in (("kept", 120), ("skipped", 1), ("refused", 2)):
        assert f'feinschliff_ingestion_rows_total{{outcome="{outcome}"}} {rows}.0' in text
    assert ingestion.process.terminate() == 0


def test_upload_that_stands_still_is_ended_and_leaves_nothing(start: Start) -> None:
    ingestion, hold = start(ingestion_idle_seconds="0.5"), threading.Event()

    def parts() -> Iterator[pb.UploadDatasetVersionRequest]:
        yield from upload_parts(file_of(chat_rows(60)), new_dataset())
        hold.wait(30)

    with pytest.raises(TimedOut) as caught:
        ingestion.call("UploadDatasetVersion", parts(), timeout_seconds=30)
    hold.set()
    assert (caught.value.reason, caught.value.metadata["seconds"]) == ("DEADLINE_EXCEEDED", "0.5")
    eventually(lambda: ingestion.kept() == nothing(), 60, "a clean store")
