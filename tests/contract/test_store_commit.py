"""A set of files is real when its manifest is there, and never before."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from feinschliff.artifacts.commit import Source, commit, fetch, key_of, read_manifest
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.artifacts.store import OCTETS, Store, Stored
from feinschliff.formats.manifest import MANIFEST_NAME, content_digest
from feinschliff.kit.errors import AlreadyExists, Invalid, NotFound, WrongState
from tests.support.s3 import S3Server


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "directory":
        (tmp_path / "bucket").mkdir()
        return DirectoryStore(tmp_path / "bucket")
    s3_store: Store = request.getfixturevalue("s3_store")
    return s3_store


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(bytes(range(256)) * 50_000)
    return path


class Recorded(DirectoryStore):
    """A folder that remembers the order of what was written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.written: list[str] = []

    def put_stream(self, key: str, chunks: Iterable[bytes], *, media_type: str = OCTETS) -> Stored:
        stored = super().put_stream(key, chunks, media_type=media_type)
        self.written.append(key)
        return stored


def test_what_was_committed_comes_back_verified(store: Store, weights: Path, tmp_path: Path) -> None:
    rows = store.put_stream("set/1/data/rows.jsonl", [b'{"a":1}\n', b'{"a":2}\n'])
    files: dict[str, Source] = {"weights.safetensors": weights, "config.json": b"{}", "empty": b""}
    files["data/rows.jsonl"] = rows

    manifest = commit(store, "set/1", files, {"step": 7, "why": None}, kind="checkpoint")

    assert read_manifest(store, "set/1") == manifest
    assert manifest.kind == "checkpoint"
    assert manifest.meta == {"step": 7, "why": None}
    assert manifest.files["weights.safetensors"].sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert manifest.files["data/rows.jsonl"].size_bytes == 16
    assert fetch(store, "set/1", tmp_path / "out") == manifest
    assert (tmp_path / "out/weights.safetensors").read_bytes() == weights.read_bytes()
    assert (tmp_path / "out/data/rows.jsonl").read_bytes() == b'{"a":1}\n{"a":2}\n'
    assert (tmp_path / "out/empty").read_bytes() == b""
    assert json.loads((tmp_path / "out" / MANIFEST_NAME).read_bytes())["meta"]["step"] == 7


def test_the_digest_names_the_content_and_nothing_else(store: Store) -> None:
    first = commit(store, "one", {"a": b"1", "b": b"2"}, {"time": 1}, kind="dataset")
    second = commit(store, "two", {"b": b"2", "a": b"1"}, {"time": 2}, kind="result")
    third = commit(store, "three", {"a": b"2", "b": b"1"}, {"time": 1}, kind="dataset")

    assert first.digest == second.digest == content_digest(first.files)
    assert third.digest != first.digest


def test_the_manifest_is_written_last(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "bucket").mkdir()
    recorded = Recorded(tmp_path / "bucket")

    commit(recorded, "set", {"zzz": b"1", "weights": weights, "a": b"2"}, {}, kind="result")

    assert sorted(recorded.written[:-1]) == ["set/a", "set/weights", "set/zzz"]
    assert recorded.written[-1] == "set/manifest.json"


def test_nothing_committed_is_nothing(store: Store, tmp_path: Path) -> None:
    store.put_bytes("half/file", b"x")

    assert read_manifest(store, "half") is None
    with pytest.raises(NotFound) as refused:
        fetch(store, "half", tmp_path / "out")
    assert refused.value.reason == "ARTIFACT_NOT_FOUND"
    assert not (tmp_path / "out").exists()


def test_committing_the_same_again_changes_nothing(store: Store, weights: Path) -> None:
    first = commit(store, "set", {"w": weights, "c": b"1"}, {"seed": 1}, kind="result")
    before = store.head("set/manifest.json")

    assert commit(store, "set", {"c": b"1", "w": weights}, {"seed": 1}, kind="result") == first
    assert store.head("set/manifest.json") == before


@pytest.mark.parametrize(
    ("files", "meta", "kind"),
    [
        ({"a": b"2"}, {"seed": 1}, "result"),
        ({"a": b"1", "b": b""}, {"seed": 1}, "result"),
        ({"a": b"1"}, {"seed": 2}, "result"),
        ({"a": b"1"}, {"seed": 1}, "checkpoint"),
    ],
)
def test_committing_something_else_over_it_is_refused(
    store: Store, files: dict[str, bytes], meta: dict[str, int], kind: str
) -> None:
    commit(store, "set", {"a": b"1"}, {"seed": 1}, kind="result")

    with pytest.raises(AlreadyExists) as refused:
        commit(store, "set", dict(files), dict(meta), kind=kind)

    assert refused.value.reason == "ARTIFACT_EXISTS"
    assert store.get_bytes("set/a") == b"1"
    assert sorted(store.list("set")) == ["set/a", "set/manifest.json"]


def corrupt_content(store: Store) -> None:
    store.put_bytes("set/a", b"0123456789X")


def corrupt_length(store: Store) -> None:
    store.put_bytes("set/a", b"0123")


def corrupt_loss(store: Store) -> None:
    store.delete("set/a")


@pytest.mark.parametrize("damage", [corrupt_content, corrupt_length, corrupt_loss])
def test_a_damaged_file_is_detected_and_not_left_behind(
    store: Store, damage: Callable[[Store], None], tmp_path: Path
) -> None:
    commit(store, "set", {"a": b"01234567890", "b": b"fine"}, {}, kind="result")
    damage(store)

    with pytest.raises(WrongState) as refused:
        fetch(store, "set", tmp_path / "out")

    assert refused.value.reason == "ARTIFACT_CORRUPT"
    assert refused.value.metadata["key"] == "set/a"
    assert not (tmp_path / "out/a").exists()
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"kind": "result", "files": {"a": {"sha256": "no"}}}'])
def test_a_manifest_that_is_none_is_corrupt_and_not_absent(store: Store, text: bytes) -> None:
    store.put_bytes("set/manifest.json", text)

    with pytest.raises(WrongState) as refused:
        read_manifest(store, "set")

    assert refused.value.reason == "ARTIFACT_CORRUPT"


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_a_manifest_cannot_write_outside_its_folder(store: Store, name: str, tmp_path: Path) -> None:
    entry = {"sha256": hashlib.sha256(b"").hexdigest(), "size_bytes": 0}
    store.put_bytes("set/manifest.json", json.dumps({"kind": "result", "files": {name: entry}, "meta": {}}).encode())

    with pytest.raises(Invalid):
        fetch(store, "set", tmp_path / "in" / "out")

    assert not list(tmp_path.rglob("outside"))


def test_fetching_again_mends_what_is_damaged_and_keeps_the_rest(store: Store, tmp_path: Path) -> None:
    commit(store, "set", {"a": b"one", "b": b"two"}, {}, kind="result")
    out = tmp_path / "out"
    fetch(store, "set", out)
    kept = (out / "b").stat().st_mtime_ns
    (out / "a").write_bytes(b"eno")
    (out / "mine").write_bytes(b"not in the manifest")

    fetch(store, "set", out)

    assert (out / "a").read_bytes() == b"one"
    assert (out / "b").stat().st_mtime_ns == kept
    assert (out / "mine").exists()


def test_a_file_that_changes_while_it_is_committed_is_not_committed(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    source = tmp_path / "moving"
    source.write_bytes(b"before")

    class Moving(DirectoryStore):
        def upload(self, path: Path, key: str, *, media_type: str = OCTETS) -> Stored:
            path.write_bytes(b"after!")
            return super().upload(path, key, media_type=media_type)

    moving = Moving(tmp_path / "bucket")
    with pytest.raises(WrongState) as refused:
        commit(moving, "set", {"moving": source}, {}, kind="result")

    assert refused.value.reason == "ARTIFACT_CHANGED"
    assert read_manifest(moving, "set") is None


def test_names_that_are_no_names_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="written by commit itself"):
        commit(store, "set", {MANIFEST_NAME: b""}, {}, kind="result")
    with pytest.raises(ValueError, match="was stored as"):
        commit(store, "set", {"a": store.put_bytes("elsewhere/a", b"")}, {}, kind="result")
    assert read_manifest(store, "set") is None


def test_the_manifest_goes_first_when_a_set_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()

    class Interrupted(DirectoryStore):
        deleted: Iterator[None]

        def delete(self, key: str) -> None:
            next(self.deleted)
            super().delete(key)

    interrupted = Interrupted(tmp_path / "bucket")
    commit(interrupted, "set", {"a": b"1", "b": b"2", "z": b"3"}, {}, kind="result")
    interrupted.deleted = iter([None])

    with pytest.raises(StopIteration):
        interrupted.delete_prefix("set")

    assert read_manifest(interrupted, "set") is None
    assert len(list(interrupted.list("set"))) == 3


COMMIT_IN_A_PROCESS = textwrap.dedent(
    """
    import sys
    from feinschliff.artifacts.commit import commit
    from feinschliff.artifacts.s3 import S3Settings, S3Store
    from feinschliff.kit.failpoints import configure

    configure(sys.argv[1])
    store = S3Store(S3Settings(*sys.argv[2:6]))
    with store.writer("set/rows") as out:
        for _ in range(20_000):
            out.write(b"x" * 1_000)
    commit(store, "set", {"rows": out.stored, "config": b"{}"}, {"step": 1}, kind="checkpoint")
    """
)


def run_commit(server: S3Server, bucket: str, failpoints: str) -> int:
    place = [server.endpoint, server.access_key, server.secret_key, bucket]
    command = [sys.executable, "-c", COMMIT_IN_A_PROCESS, failpoints, *place]
    return subprocess.run(command, timeout=60, check=False).returncode


def test_a_writer_killed_before_the_manifest_committed_nothing_and_may_try_again(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    store = s3_server.store(s3_bucket)

    assert run_commit(s3_server, s3_bucket, "artifacts.before_manifest=kill") == -signal.SIGKILL
    assert read_manifest(store, "set") is None
    assert sorted(store.list("set")) == ["set/config", "set/rows"]

    assert run_commit(s3_server, s3_bucket, "") == 0
    assert fetch(store, "set", tmp_path / "out").files["rows"].size_bytes == 20_000_000


def test_a_writer_killed_after_the_manifest_has_committed(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    store = s3_server.store(s3_bucket)

    assert run_commit(s3_server, s3_bucket, "artifacts.after_manifest=kill") == -signal.SIGKILL
    manifest = read_manifest(store, "set")
    assert manifest is not None
    assert fetch(store, "set", tmp_path / "out") == manifest

    assert run_commit(s3_server, s3_bucket, "") == 0
    assert read_manifest(store, "set") == manifest


def test_keys_of_a_set_follow_from_its_prefix() -> None:
    assert key_of("a/b", "c/d") == key_of("a/b/", "c/d") == "a/b/c/d"
