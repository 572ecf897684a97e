"""Clients that leave, wait, watch, or come all at once."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from feinschliff.kit.errors import Conflict, Exhausted, Refusal
from feinschliff.v1 import ingestion_pb2 as pb
from tests.contract.ingestion.running import Dripping, Ingestion, chat_row, chat_rows, file_of, new_dataset, processing
from tests.support.waiting import eventually

READY = pb.DatasetVersion.STATE_READY


@pytest.mark.parametrize("size_bytes", [3_000, 15_000_000])
def test_client_that_leaves_leaves_nothing(ingestion: Ingestion, size_bytes: int) -> None:
    before, dataset = ingestion.kept(), new_dataset()
    rows = file_of(chat_rows(40))
    client = Dripping(ingestion, dataset, rows * (size_bytes // len(rows) + 1))
    eventually(lambda: processing(ingestion, dataset), 60, "the upload")
    client.cancel()
    eventually(lambda: ingestion.kept() == before, 60, "a clean store")


def test_clients_that_leave_at_any_moment_leave_nothing(ingestion: Ingestion) -> None:
    before, rng = ingestion.kept(), random.Random(11)
    data = file_of(chat_rows(60))
    for _ in range(25):
        client = Dripping(ingestion, new_dataset(), data)
        threading.Event().wait(rng.random() * 0.05)
        client.cancel()
    uploads_in_flight = "feinschliff_ingestion_uploads_in_flight 0.0"
    eventually(lambda: uploads_in_flight in ingestion.metrics(), 60, "the end of all uploads")
    eventually(lambda: ingestion.kept() == before, 60, "a clean store")


def test_upload_can_be_watched_to_its_end(ingestion: Ingestion) -> None:
    dataset = new_dataset()
    client = Dripping(ingestion, dataset, file_of(chat_rows(100)), file_of([chat_row(7)]), size_bytes=None)
    eventually(lambda: processing(ingestion, dataset), 60, "the upload")
    request = pb.WatchDatasetVersionRequest(name=f"{dataset}/versions/1")
    with ingestion.stub() as stub, ThreadPoolExecutor(1) as pool:
        watching = stub.WatchDatasetVersion(request, timeout=30)
        first = next(watching)
        assert first.dataset_version.state == pb.DatasetVersion.STATE_PROCESSING
        rest = pool.submit(list, watching)
        done = client.go_on()
        seen = rest.result(30)
    assert seen[-1].dataset_version == done
    cursors = [first.cursor, *(one.cursor for one in seen)]
    assert cursors == sorted(set(cursors))
    again = ingestion.stream("WatchDatasetVersion", pb.WatchDatasetVersionRequest(name=done.name, cursor=first.cursor))
    assert [one.dataset_version for one in again] == [done]
    assert (
        ingestion.stream("WatchDatasetVersion", pb.WatchDatasetVersionRequest(name=done.name, cursor=cursors[-1])) == []
    )


def test_same_request_at_the_same_time_is_told_to_wait(ingestion: Ingestion) -> None:
    dataset, data = new_dataset(), file_of(chat_rows(60))
    client = Dripping(ingestion, dataset, data, request_id="r")
    eventually(lambda: processing(ingestion, dataset), 60, "the upload")
    refusal = ingestion.refused(data, dataset, request_id="r")
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "UPLOAD_RUNNING"
    assert refusal.retry_after_seconds
    done = client.go_on()
    assert ingestion.upload(data, dataset, request_id="r") == done


def test_more_uploads_than_allowed_are_told_to_come_again(ingestion: Ingestion) -> None:
    data = file_of(chat_rows(60))
    datasets = [new_dataset() for _ in range(4)]
    clients = [Dripping(ingestion, dataset, data) for dataset in datasets]
    for dataset in datasets:
        eventually(lambda dataset=dataset: processing(ingestion, dataset), 60, "the upload")  # type: ignore[misc]
    refusal = ingestion.refused(data)
    assert isinstance(refusal, Exhausted)
    assert (refusal.reason, refusal.retry_after_seconds) == ("UPLOADS_BUSY", 2)
    for client in clients:
        assert client.go_on().state == READY
    assert ingestion.upload(data).state == READY


def test_uploads_at_once_into_one_dataset_get_a_number_each(ingestion: Ingestion) -> None:
    dataset = new_dataset()
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda n: ingestion.upload(file_of(chat_rows(50 + n)), dataset), range(4)))
    assert sorted(version.name for version in versions) == [f"{dataset}/versions/{number}" for number in (1, 2, 3, 4)]
    assert all(len(ingestion.rows(version.name)) == version.rows for version in versions)


def test_rows_of_a_version_in_the_making_cannot_be_read(ingestion: Ingestion) -> None:
    dataset = new_dataset()
    client = Dripping(ingestion, dataset, file_of(chat_rows(60)))
    eventually(lambda: processing(ingestion, dataset), 60, "the upload")
    for method, request in (
        ("ReadRows", pb.ReadRowsRequest(name=f"{dataset}/versions/1")),
        ("ReadSource", pb.ReadSourceRequest(name=f"{dataset}/versions/1")),
    ):
        with pytest.raises(Refusal) as caught:
            ingestion.stream(method, request)
        assert caught.value.reason == "VERSION_NOT_READY"
    with pytest.raises(Refusal) as caught:
        ingestion.call("DeleteDataset", pb.DeleteDatasetRequest(name=dataset))
    assert caught.value.reason == "DATASET_BUSY"
    client.go_on()
