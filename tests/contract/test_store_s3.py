"""What only a real S3 server can show: outages, keys, buckets, and the embedded server itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from feinschliff.artifacts.s3 import S3Settings, S3Store
from feinschliff.cli.embedded_s3 import start_s3, stop_s3
from feinschliff.kit.errors import Invalid, Unavailable, WrongState
from tests.support.ports import free_port
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Outage, S3Server
from tests.support.waiting import eventually


def every_use(store: S3Store, folder: Path) -> dict[str, Callable[[], object]]:
    return {
        "check": store.check,
        "put_bytes": lambda: store.put_bytes("key", b"x"),
        "put_stream": lambda: store.put_stream("key", [b"x" * 9_000_000, b"y" * 9_000_000]),
        "get_bytes": lambda: store.get_bytes("key"),
        "open": lambda: list(store.open("key")),
        "head": lambda: store.head("key"),
        "list": lambda: list(store.list()),
        "delete": lambda: store.delete("key"),
        "delete_prefix": lambda: store.delete_prefix("p"),
        "download": lambda: store.download("key", folder / "file"),
        "ensure_bucket": store.ensure_bucket,
    }


def test_an_outage_is_said_within_seconds_and_is_over_when_it_is_over(s3_outage: S3Outage, tmp_path: Path) -> None:
    store = s3_outage.server.store(s3_outage.bucket)
    store.put_bytes("kept", b"safe")
    s3_outage.kill()

    for name, use in every_use(store, tmp_path).items():
        began = time.monotonic()
        with pytest.raises(Unavailable) as refused:
            use()
        assert refused.value.reason == "STORE_UNAVAILABLE", name
        assert refused.value.retry_after_seconds is not None
        assert time.monotonic() - began < 5, name
    assert not (tmp_path / "file").exists()

    s3_outage.start()
    store.check()
    assert store.get_bytes("kept") == b"safe"
    assert store.head("key") is None


def test_a_server_that_hangs_is_as_good_as_none(s3_outage: S3Outage) -> None:
    store = s3_outage.server.store(s3_outage.bucket, read_timeout_seconds=1, tries=2)
    store.put_bytes("kept", b"safe")
    s3_outage.freeze()

    began = time.monotonic()
    with pytest.raises(Unavailable):
        store.check()
    assert time.monotonic() - began < 4
    with pytest.raises(Unavailable):
        store.get_bytes("kept")
    assert time.monotonic() - began < 8

    s3_outage.thaw()
    eventually(lambda: store.get_bytes("kept") == b"safe", 30, "the thawed server")


def test_an_outage_in_the_middle_of_a_stream_leaves_nothing(s3_outage: S3Outage) -> None:
    store = s3_outage.server.store(s3_outage.bucket)

    def chunks() -> Iterator[bytes]:
        for number in range(60):
            if number == 20:
                s3_outage.kill()
            yield bytes(1_000_000)

    with pytest.raises(Unavailable):
        store.put_stream("torn", chunks())

    s3_outage.start()
    assert store.head("torn") is None
    assert list(store.list()) == []


def test_an_outage_reaches_the_producer_that_pushes(s3_outage: S3Outage) -> None:
    store = s3_outage.server.store(s3_outage.bucket)
    written = 0

    def push() -> None:
        nonlocal written
        with store.writer("torn") as out:
            for number in range(200):
                if number == 20:
                    s3_outage.kill()
                out.write(bytes(1_000_000))
                written += 1

    with pytest.raises(Unavailable) as refused:
        push()

    assert refused.value.reason == "STORE_UNAVAILABLE"
    assert written < 100, "the producer was told only at the end"
    assert not [thread for thread in threading.enumerate() if thread.name == "artifact-writer"]
    s3_outage.start()
    assert store.head("torn") is None


def test_a_reader_cut_off_is_told_and_never_given_a_short_object(s3_outage: S3Outage, tmp_path: Path) -> None:
    store = s3_outage.server.store(s3_outage.bucket)
    store.put_stream("large", (bytes(1_000_000) for _ in range(64)))
    chunks = store.open("large")
    next(chunks)
    s3_outage.kill()

    with pytest.raises(Unavailable):
        list(chunks)


PUSH_AND_DIE = textwrap.dedent(
    """
    import os, signal, sys
    from feinschliff.artifacts.s3 import S3Settings, S3Store

    store = S3Store(S3Settings(*sys.argv[1:5]))
    with store.writer("torn") as out:
        for number in range(40):
            out.write(bytes(1_000_000))
        os.kill(os.getpid(), signal.SIGKILL)
    """
)


def test_a_writer_killed_while_it_pushes_leaves_no_object(s3_server: S3Server, s3_bucket: str) -> None:
    place = [s3_server.endpoint, s3_server.access_key, s3_server.secret_key, s3_bucket]
    ended = subprocess.run([sys.executable, "-c", PUSH_AND_DIE, *place], timeout=60, check=False)

    assert ended.returncode == -signal.SIGKILL
    store = s3_server.store(s3_bucket)
    assert store.head("torn") is None
    assert list(store.list()) == []


def test_parts_that_a_killed_writer_left_are_dropped_when_they_are_old(s3_server: S3Server, s3_bucket: str) -> None:
    place = [s3_server.endpoint, s3_server.access_key, s3_server.secret_key, s3_bucket]
    subprocess.run([sys.executable, "-c", PUSH_AND_DIE, *place], timeout=60, check=False)
    store = s3_server.store(s3_bucket)

    assert store.drop_unfinished(older_than=timedelta(hours=1)) == 0
    assert store.drop_unfinished(older_than=timedelta(0)) == 1
    assert store.drop_unfinished(older_than=timedelta(0)) == 0


def test_wrong_keys_are_named_as_such(s3_server: S3Server, s3_bucket: str) -> None:
    for access_key, secret_key in [(ACCESS_KEY, "wrong"), ("nobody", SECRET_KEY)]:
        store = S3Store(S3Settings(s3_server.endpoint, access_key, secret_key, s3_bucket))
        for use in (lambda store=store: store.put_bytes("key", b""), lambda store=store: list(store.list())):
            with pytest.raises(Unavailable) as refused:
                use()
            assert refused.value.reason == "STORE_REFUSES_KEYS"
            assert SECRET_KEY not in str(refused.value)


def test_a_missing_bucket_is_named_as_such(s3_server: S3Server) -> None:
    store = S3Store(S3Settings(s3_server.endpoint, ACCESS_KEY, SECRET_KEY, "no-such-bucket"))

    for use in (store.check, lambda: list(store.list())):
        with pytest.raises(Unavailable) as refused:
            use()
        assert refused.value.reason == "STORE_BUCKET_MISSING"


def test_the_bucket_may_be_ensured_by_many_at_once(s3_server: S3Server) -> None:
    store = S3Store(S3Settings(s3_server.endpoint, ACCESS_KEY, SECRET_KEY, "ensured-by-many"))
    failures: list[Exception] = []

    def ensure() -> None:
        try:
            store.ensure_bucket()
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=ensure) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    store.check()


def test_another_bucket_is_reached_from_the_same_store(s3_server: S3Server, s3_bucket: str) -> None:
    store = s3_server.store(s3_bucket)
    s3_server.store("other-bucket").put_bytes("there", b"1")

    other = store.in_bucket("other-bucket")

    assert (other.bucket, other.get_bytes("there")) == ("other-bucket", b"1")
    assert store.head("there") is None
    assert store.in_bucket(s3_bucket) is store


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:8333", "ftp://host", "http://"])
def test_an_endpoint_that_is_no_url_stops_the_start(endpoint: str) -> None:
    with pytest.raises(Invalid) as refused:
        S3Store(S3Settings(endpoint, "a", "b", "bucket"))
    assert refused.value.reason == "S3_ENDPOINT_INVALID"


def test_the_embedded_server_listens_on_loopback_only_and_needs_keys(s3_outage: S3Outage) -> None:
    assert s3_outage._running is not None
    process = psutil.Process(s3_outage._running.process.pid)

    listening = [one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]

    assert len(listening) >= 5
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
    stranger = S3Store(S3Settings(s3_outage.server.endpoint, "", "", s3_outage.bucket))
    with pytest.raises(Unavailable):
        list(stranger.list())


def test_the_embedded_server_keeps_its_data_through_a_kill_and_a_new_port(tmp_path: Path) -> None:
    keys = {f"o/{number}": os.urandom(100_000) for number in range(20)}
    first = start_s3(tmp_path / "s3", port=free_port(), access_key=ACCESS_KEY, secret_key=SECRET_KEY)
    store = S3Server(first.endpoint).store("feinschliff")
    for key, data in keys.items():
        store.put_bytes(key, data)
    first.process.kill()
    first.process.wait()

    second = start_s3(tmp_path / "s3", port=free_port(), access_key="new-key", secret_key="new-secret")
    try:
        renewed = S3Store(S3Settings(second.endpoint, "new-key", "new-secret", "feinschliff"))
        assert {key: renewed.get_bytes(key) for key in renewed.list()} == keys
        old_keys = S3Store(S3Settings(second.endpoint, ACCESS_KEY, SECRET_KEY, "feinschliff"))
        with pytest.raises(Unavailable):
            old_keys.get_bytes("o/1")
    finally:
        second.stop()


def test_two_servers_run_side_by_side_and_one_folder_has_one_server(tmp_path: Path) -> None:
    running = [
        start_s3(tmp_path / name, port=free_port(), access_key=ACCESS_KEY, secret_key=SECRET_KEY) for name in "ab"
    ]
    try:
        S3Server(running[0].endpoint).store("feinschliff").put_bytes("only/here", b"")
        assert S3Server(running[1].endpoint).store("feinschliff").head("only/here") is None
        with pytest.raises(WrongState) as refused:
            start_s3(tmp_path / "a", port=free_port(), access_key=ACCESS_KEY, secret_key=SECRET_KEY)
        assert refused.value.reason == "S3_ALREADY_RUNNING"
        taken = int(running[0].endpoint.rsplit(":", 1)[1])
        with pytest.raises(WrongState) as refused:
            start_s3(tmp_path / "c", port=taken, access_key=ACCESS_KEY, secret_key=SECRET_KEY)
        assert refused.value.reason == "S3_PORT_TAKEN"
    finally:
        for one in running:
            one.stop()


def test_a_server_left_behind_is_stopped_by_its_folder(tmp_path: Path) -> None:
    running = start_s3(tmp_path / "s3", port=free_port(), access_key=ACCESS_KEY, secret_key=SECRET_KEY)

    stop_s3(tmp_path / "s3")
    stop_s3(tmp_path / "s3")

    assert running.process.wait(5) is not None
    stop_s3(tmp_path / "never-there")


def test_the_keys_never_touch_the_disk(tmp_path: Path) -> None:
    running = start_s3(tmp_path / "s3", port=free_port(), access_key="AKspecial", secret_key="SKspecial")
    try:
        S3Store(S3Settings(running.endpoint, "AKspecial", "SKspecial", "feinschliff")).put_bytes("key", b"x")
        for path in (tmp_path / "s3").rglob("*"):
            assert not path.is_file() or b"SKspecial" not in path.read_bytes(), path
        assert "SKspecial" not in " ".join(psutil.Process(running.process.pid).cmdline())
    finally:
        running.stop()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3" / "data").mkdir()
    (tmp_path / "s3" / "data" / "filerldb2").write_text("in the way")

    with pytest.raises(Unavailable) as refused:
        start_s3(
            tmp_path / "s3",
            port=free_port(),
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            start_seconds_max=5,
        )

    assert refused.value.reason == "S3_START_FAILED"
