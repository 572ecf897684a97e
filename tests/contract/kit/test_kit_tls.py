"""TLS between services: who is let in, and certificates that are renewed while everything runs."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from feinschliff.kit import client, tls
from feinschliff.kit.errors import Refusal, from_rpc_error
from feinschliff.kit.settings import Settings
from feinschliff.v1 import ingestion_pb2, ingestion_pb2_grpc, training_pb2, training_pb2_grpc
from tests.contract.kit.rooms import DATASETS, Context, Datasets, Open, opened, quick_settings
from tests.support.certificates import Authority, TlsFiles

GET = ingestion_pb2.GetDatasetRequest(name="projects/default/datasets/d")
WATCH = training_pb2.WatchTrainingJobRequest(name="projects/default/trainingJobs/j")


class Looking(Datasets):
    """Notes the certificate that each caller shows."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[bytes] = []

    async def GetDataset(self, request: ingestion_pb2.GetDatasetRequest, context: Context) -> ingestion_pb2.Dataset:
        self.shown += context.auth_context()["x509_pem_cert"]
        return await super().GetDataset(request, context)


@pytest.fixture
def looking() -> Looking:
    return Looking()


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> TlsFiles:
    return authority.pair(tmp_path / "server")


@pytest.fixture
async def room(files: TlsFiles, looking: Looking) -> AsyncIterator[Open]:
    async with opened(settings=quick_settings(**files.settings()), datasets=looking) as open_room:
        yield open_room
    await client.close_channels()


@pytest.fixture
def speak() -> Iterator[Callable[[TlsFiles | None], None]]:
    """Makes the process's channels speak with these files."""

    def configure(files: TlsFiles | None) -> None:
        tls.configure(Settings(**({} if files is None else files.settings())))

    yield configure
    configure(None)


Speak = Callable[[TlsFiles | None], None]


async def ask(room: Open, host: str = "127.0.0.1") -> str:
    """One call over the process's own channel."""
    address = room.address.replace("127.0.0.1", host)
    stub = ingestion_pb2_grpc.DatasetServiceStub(client.channel(address, name="ingestion", timeout_seconds=5))
    return str((await stub.GetDataset(GET)).name)


async def refused(answer: Any) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        await answer
    return from_rpc_error(caught.value)


def shown_by(address: str, trusted: Path) -> bytes:
    """The certificate that a new connection is shown, before anybody is asked for one."""
    host, _, port = address.partition(":")
    context = ssl.create_default_context(cafile=str(trusted))
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"").encode()


async def test_services_with_certificates_of_one_ca_understand_each_other(
    room: Open, files: TlsFiles, speak: Speak
) -> None:
    speak(files)
    assert await ask(room) == GET.name
    assert await ask(room, "localhost") == GET.name


async def test_a_thread_speaks_it_too(room: Open, files: TlsFiles, speak: Speak) -> None:
    speak(files)

    def work() -> str:
        channel = client.sync_channel(room.address, name="ingestion", services=(DATASETS,))
        assert client.sync_channel(room.address, name="ingestion", services=(DATASETS,)) is channel
        try:
            return str(ingestion_pb2_grpc.DatasetServiceStub(channel).GetDataset(GET, timeout=5).name)
        finally:
            client.close_sync_channels()

    assert await asyncio.to_thread(work) == GET.name


async def test_plain_text_is_refused(room: Open, speak: Speak) -> None:
    speak(None)
    assert (await refused(ask(room))).reason == "SERVICE_UNREACHABLE"
    assert not room.datasets.seen


async def test_a_client_without_a_certificate_is_refused(room: Open, files: TlsFiles) -> None:
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
    async with grpc.aio.secure_channel(room.address, credentials) as channel:
        got = await refused(ingestion_pb2_grpc.DatasetServiceStub(channel).GetDataset(GET, timeout=5))
    assert got.code is grpc.StatusCode.UNAVAILABLE
    assert not room.datasets.seen


async def test_a_client_of_another_ca_is_refused(
    room: Open, authority: Authority, tmp_path: Path, speak: Speak
) -> None:
    speak(Authority().pair(tmp_path / "stranger", trusts=authority))
    assert (await refused(ask(room))).reason == "SERVICE_UNREACHABLE"
    assert not room.datasets.seen


async def test_a_server_of_another_ca_is_not_asked(
    room: Open, authority: Authority, tmp_path: Path, speak: Speak
) -> None:
    speak(authority.pair(tmp_path / "wary", trusts=Authority()))
    assert (await refused(ask(room))).reason == "SERVICE_UNREACHABLE"
    assert not room.datasets.seen


async def test_a_server_under_another_name_is_not_asked(authority: Authority, tmp_path: Path, speak: Speak) -> None:
    elsewhere = authority.pair(tmp_path / "elsewhere", "registry.example")
    speak(elsewhere)
    async with opened(settings=quick_settings(**elsewhere.settings())) as room:
        assert (await refused(ask(room))).reason == "SERVICE_UNREACHABLE"
        await client.close_channels()


async def test_where_none_is_demanded_the_ca_is_enough(files: TlsFiles) -> None:
    settings = quick_settings(**files.settings(), tls_client_certificates=False)
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
    async with opened(settings=settings) as room, grpc.aio.secure_channel(room.address, credentials) as channel:
        answer = await ingestion_pb2_grpc.DatasetServiceStub(channel).GetDataset(GET, timeout=5)
        assert answer.name == GET.name


async def test_a_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on(
    authority: Authority, files: TlsFiles
) -> None:
    settings = quick_settings(**files.settings(), tls_client_certificates=False)
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
    async with opened(settings=settings) as room, grpc.aio.secure_channel(room.address, credentials) as channel:
        stub = ingestion_pb2_grpc.DatasetServiceStub(channel)
        await stub.GetDataset(GET, timeout=5)
        for _ in range(3):
            authority.pair(files.folder)
            shown = await asyncio.to_thread(shown_by, room.address, files.ca)
            assert shown.split() == files.certificate.read_bytes().split()
        await stub.GetDataset(GET, timeout=5)


async def test_a_stub_that_is_there_already_shows_the_renewed_pair_and_trusts_the_new_ca(
    room: Open, files: TlsFiles, looking: Looking, speak: Speak
) -> None:
    speak(files)
    stub = ingestion_pb2_grpc.DatasetServiceStub(client.channel(room.address, name="ingestion"))
    for _ in range(3):
        await stub.GetDataset(GET, timeout=5)
        assert looking.shown.pop().split() == files.certificate.read_bytes().split()
        Authority().pair(files.folder)


async def test_calls_that_run_when_a_certificate_is_renewed_go_on(
    room: Open, authority: Authority, files: TlsFiles, speak: Speak
) -> None:
    speak(files)
    channel = client.channel(room.address, name="training")
    watch = training_pb2_grpc.TrainingServiceStub(channel).WatchTrainingJob(WATCH)
    await watch.read()
    stub = ingestion_pb2_grpc.DatasetServiceStub(channel)
    authority.pair(files.folder)
    assert (await stub.GetDataset(GET, timeout=5)).name == GET.name
    assert not watch.done()
    assert not room.training.left.is_set()
    authority.pair(files.folder)
    await stub.GetDataset(GET, timeout=5)
    await asyncio.wait_for(room.training.left.wait(), 5), "a connection two certificates old is closed"


async def test_a_thread_that_keeps_its_stub_shows_the_renewed_pair(
    room: Open, files: TlsFiles, looking: Looking, speak: Speak
) -> None:
    speak(files)

    def work() -> None:
        channel = client.sync_channel(room.address, name="ingestion", services=(DATASETS,))
        stub = ingestion_pb2_grpc.DatasetServiceStub(channel)
        try:
            for _ in range(3):
                stub.GetDataset(GET, timeout=5)
                assert looking.shown.pop().split() == files.certificate.read_bytes().split()
                Authority().pair(files.folder)
        finally:
            client.close_sync_channels()

    await asyncio.to_thread(work)
