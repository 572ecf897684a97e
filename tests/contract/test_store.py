"""What every object store promises; the folder and a real S3 server both keep it."""

from __future__ import annotations

import hashlib
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.artifacts.store import GET_BYTES_MAX, Store
from feinschliff.artifacts.writer import Writer
from feinschliff.kit.errors import Invalid, NotFound

MIB = 1024 * 1024


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "directory":
        (tmp_path / "bucket").mkdir()
        return DirectoryStore(tmp_path / "bucket")
    s3_store: Store = request.getfixturevalue("s3_store")
    return s3_store


def blocks(megabytes: int) -> Iterator[bytes]:
    """Different, incompressible and repeatable MiB blocks, cut at odd places."""
    for number in range(megabytes):
        block = hashlib.sha256(str(number).encode()).digest() * (MIB // 32)
        yield block[:1001]
        yield b""
        yield block[1001:]


def failing_after(megabytes: int) -> Iterator[bytes]:
    yield from blocks(megabytes)
    raise LookupError("the producer gave up")


def test_a_stream_comes_back_as_it_went_in_with_its_hash_and_size(store: Store) -> None:
    pieces = [b"", b"a", b"bc" * 5_000, b"", "ü€😀".encode()]

    stored = store.put_stream("a/b c/ü.bin", iter(pieces), media_type="text/plain")

    whole = b"".join(pieces)
    assert (stored.key, stored.size_bytes) == ("a/b c/ü.bin", len(whole))
    assert stored.sha256 == hashlib.sha256(whole).hexdigest()
    assert b"".join(store.open("a/b c/ü.bin")) == whole
    assert store.get_bytes("a/b c/ü.bin") == whole


def test_an_object_of_no_bytes_exists(store: Store) -> None:
    by_stream = store.put_stream("empty/stream", iter(()))
    by_bytes = store.put_bytes("empty/bytes", b"")
    with store.writer("empty/writer") as out:
        pass

    assert {by_stream.sha256, by_bytes.sha256, out.stored.sha256} == {hashlib.sha256(b"").hexdigest()}
    assert sorted(store.list("empty")) == ["empty/bytes", "empty/stream", "empty/writer"]
    for key in store.list("empty"):
        found = store.head(key)
        assert found is not None
        assert found.size_bytes == 0
        assert store.get_bytes(key) == b""
        assert list(store.open(key, offset=0)) == []


@pytest.mark.parametrize("size_bytes", [8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 16 * MIB, 16 * MIB + 1])
def test_sizes_around_the_parts_of_an_upload_are_stored_whole(store: Store, size_bytes: int) -> None:
    data = os.urandom(MIB) * (size_bytes // MIB) + bytes(size_bytes % MIB)
    data = data[:size_bytes]

    stored = store.put_stream("parts", [data])

    assert stored.size_bytes == size_bytes == len(data)
    digest = hashlib.sha256()
    for chunk in store.open("parts"):
        digest.update(chunk)
    assert digest.hexdigest() == stored.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("way", ["put_stream", "writer"])
def test_an_object_larger_than_the_memory_bound_passes(store: Store, way: str) -> None:
    expected = hashlib.sha256()
    for block in blocks(96):
        expected.update(block)

    tracemalloc.start()
    try:
        if way == "put_stream":
            stored = store.put_stream("large", blocks(96))
        else:
            with store.writer("large") as out:
                for block in blocks(96):
                    out.write(block)
            stored = out.stored
        _, written_peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        read = hashlib.sha256()
        for chunk in store.open("large"):
            assert len(chunk) <= MIB
            read.update(chunk)
        _, read_peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert stored.size_bytes == 96 * MIB
    assert stored.sha256 == read.hexdigest() == expected.hexdigest()
    assert written_peak_bytes < 48 * MIB
    assert read_peak_bytes < 12 * MIB


@pytest.mark.parametrize("megabytes", [0, 1, 20])
def test_a_producer_that_fails_leaves_nothing(store: Store, megabytes: int) -> None:
    with pytest.raises(LookupError, match="the producer gave up"):
        store.put_stream("torn/object", failing_after(megabytes))

    assert store.head("torn/object") is None
    assert list(store.list()) == []
    assert unfinished_uploads(store) == []


@pytest.mark.parametrize("megabytes", [0, 1, 20])
def test_a_writer_left_by_an_exception_leaves_nothing(store: Store, megabytes: int) -> None:
    writers: list[Writer] = []

    def change_my_mind() -> None:
        with store.writer("torn/writer") as out:
            writers.append(out)
            for block in failing_after(megabytes):
                out.write(block)

    with pytest.raises(LookupError, match="the producer gave up"):
        change_my_mind()

    assert store.head("torn/writer") is None
    assert list(store.list()) == []
    assert unfinished_uploads(store) == []
    with pytest.raises(RuntimeError, match="nothing is stored"):
        _ = writers[0].stored


def test_a_failed_overwrite_keeps_the_old_object(store: Store) -> None:
    store.put_bytes("kept", b"old")

    with pytest.raises(LookupError):
        store.put_stream("kept", failing_after(9))

    assert store.get_bytes("kept") == b"old"


def test_an_overwrite_is_seen_at_once(store: Store) -> None:
    for turn in range(5):
        data = bytes([turn]) * (turn * 3_000_000)
        store.put_stream("again", [data])
        assert store.get_bytes("again") == data


def test_many_small_writes_become_one_object(store: Store) -> None:
    with store.writer("lines") as out:
        for number in range(50_000):
            out.write(b"%d\n" % number)
        assert out.bytes_written == sum(len(str(number)) + 1 for number in range(50_000))

    assert store.get_bytes("lines") == b"".join(b"%d\n" % number for number in range(50_000))
    assert out.stored.size_bytes == out.bytes_written


def test_reading_begins_at_any_offset(store: Store) -> None:
    data = bytes(range(256)) * 10_000
    store.put_bytes("offsets", data)

    for offset in (0, 1, 255, 1_500_000, len(data) - 1, len(data)):
        assert b"".join(store.open("offsets", offset=offset)) == data[offset:]


def test_reading_may_stop_early_and_the_store_goes_on(store: Store) -> None:
    store.put_stream("large", blocks(9))

    for _ in range(50):
        chunks = store.open("large")
        assert len(next(chunks)) > 0
        del chunks

    assert store.head("large") is not None


def test_what_is_not_there_is_refused_by_name(store: Store) -> None:
    for read in (store.open, store.get_bytes, lambda key: store.open(key, offset=3)):
        with pytest.raises(NotFound) as refused:
            read("no/such/object")
        assert refused.value.reason == "ARTIFACT_NOT_FOUND"
        assert refused.value.metadata["key"] == "no/such/object"
    assert store.head("no/such/object") is None
    assert list(store.list("no/such")) == []


def test_a_folder_is_not_an_object(store: Store) -> None:
    store.put_bytes("folder/object", b"x")

    assert store.head("folder") is None
    with pytest.raises(NotFound):
        store.get_bytes("folder")


def test_get_bytes_never_reads_more_than_its_limit(store: Store) -> None:
    store.put_bytes("limited", b"x" * 1000)

    assert store.get_bytes("limited", limit_bytes=1000) == b"x" * 1000
    with pytest.raises(Invalid) as refused:
        store.get_bytes("limited", limit_bytes=999)
    assert refused.value.reason == "ARTIFACT_TOO_LARGE"
    store.put_stream("huge", blocks(GET_BYTES_MAX // MIB + 1))
    with pytest.raises(Invalid):
        store.get_bytes("huge")


def test_a_listing_is_of_a_folder_and_not_of_its_namesakes(store: Store) -> None:
    keys = ["p/a/1", "p/a/deep/er/2", "p/ab/3", "p/a.json", "q/4"]
    for key in keys:
        store.put_bytes(key, b"")

    assert sorted(store.list("p/a")) == ["p/a/1", "p/a/deep/er/2"]
    assert sorted(store.list("p/a/")) == ["p/a/1", "p/a/deep/er/2"]
    assert sorted(store.list()) == sorted(keys)


def test_a_listing_goes_beyond_one_page(store: Store) -> None:
    keys = sorted(f"many/{number:04}" for number in range(1_100))
    for key in keys:
        store.put_bytes(key, b"")

    assert sorted(store.list("many")) == keys
    store.delete_prefix("many")
    assert list(store.list("many")) == []


def test_deleting_is_harmless_to_repeat_and_spares_the_namesakes(store: Store) -> None:
    for key in ("p/a/1", "p/a/2/3", "p/a/manifest.json", "p/ab/4"):
        store.put_bytes(key, b"x")

    store.delete_prefix("p/a")
    store.delete_prefix("p/a")
    store.delete("p/nothing")

    assert list(store.list()) == ["p/ab/4"]
    store.delete("p/ab/4")
    assert list(store.list()) == []


@pytest.mark.parametrize("prefix", ["", "/", "//", ".", "..", "p/.."])
def test_nobody_empties_the_bucket_by_mistake(store: Store, prefix: str) -> None:
    store.put_bytes("p/a", b"x")

    with pytest.raises(Invalid) as refused:
        store.delete_prefix(prefix)

    assert refused.value.reason == "ARTIFACT_KEY_INVALID"
    assert list(store.list()) == ["p/a"]


def test_files_go_up_and_come_down_whole(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(b"".join(blocks(9)))

    up = store.upload(source, "file")
    down = store.download("file", target)

    assert up == down
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_download_of_nothing_leaves_no_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"old")

    with pytest.raises(NotFound):
        store.download("missing", tmp_path / "kept")
    with pytest.raises(NotFound):
        store.download("missing", tmp_path / "other")

    assert (tmp_path / "kept").read_bytes() == b"old"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "a/../b", ".", "..", "a/./b", "a\nb", "a\\b", " a", "x" * 901])
def test_malformed_keys_are_refused_everywhere(store: Store, key: str, tmp_path: Path) -> None:
    for use in (
        lambda: store.put_bytes(key, b""),
        lambda: store.put_stream(key, []),
        lambda: store.writer(key),
        lambda: store.open(key),
        lambda: store.get_bytes(key),
        lambda: store.head(key),
        lambda: store.delete(key),
        lambda: store.download(key, tmp_path / "x"),
    ):
        with pytest.raises(Invalid) as refused:
            use()
        assert refused.value.reason == "ARTIFACT_KEY_INVALID"


def test_threads_write_and_read_at_once_without_mixing(store: Store) -> None:
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(5):
            data = f"{number}-{turn}-".encode() * 5_000
            with store.writer(f"threads/{number}") as out:
                out.write(data)
            if store.get_bytes(f"threads/{number}") != data:
                wrong.append(f"{number}-{turn}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert len(list(store.list("threads"))) == 8


def test_a_ready_store_says_so(store: Store) -> None:
    store.check()


def unfinished_uploads(store: Store) -> list[str]:
    """What lies around half-written, seen from behind the store."""
    if isinstance(store, DirectoryStore):
        return [path.name for path in store._root.rglob("*") if path.is_file()]
    client = store._client  # type: ignore[attr-defined]
    return [upload.object_name for upload in client._list_multipart_uploads(store.bucket).uploads]
