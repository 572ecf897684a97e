"""Makes a set of files real: the files first, their manifest last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue, ValidationError

from feinschliff.artifacts.store import CHUNK_BYTES, Store, Stored, check_key, folder_prefix
from feinschliff.formats.manifest import MANIFEST_NAME, FileEntry, Manifest
from feinschliff.kit.errors import AlreadyExists, NotFound, WrongState
from feinschliff.kit.failpoints import fail

Source = Path | bytes | Stored
"""A file on disk, its bytes, or what a writer has already stored below the prefix."""


def commit(
    store: Store, prefix: str, files: Mapping[str, Source], meta: Mapping[str, JsonValue], *, kind: str
) -> Manifest:
    """Upload `files` (names below `prefix`, which may contain `/`), then write the manifest that makes them real.

    Committing the same content again changes nothing and gives the same manifest, so a retry is harmless. One writer
    per prefix: who runs twice at once must give equal bytes.

    Raises:
        AlreadyExists: ARTIFACT_EXISTS, another manifest is there.
        WrongState: ARTIFACT_CHANGED, a file changed while it was uploaded.
    """
    entries = {name: _entry(prefix, name, source) for name, source in sorted(files.items())}
    manifest = Manifest(kind=kind, files=entries, meta=dict(meta))
    there = read_manifest(store, prefix)
    if there is not None:
        if there != manifest:
            raise AlreadyExists("ARTIFACT_EXISTS", f"{prefix} is committed with other content.", prefix=prefix)
        return there
    for name, source in sorted(files.items()):
        _upload(store, key_of(prefix, name), source, entries[name])
    fail("artifacts.before_manifest")
    store.put_bytes(key_of(prefix, MANIFEST_NAME), manifest.to_json(), media_type="application/json")
    fail("artifacts.after_manifest")
    return manifest


def read_manifest(store: Store, prefix: str) -> Manifest | None:
    """What is committed under `prefix`; None: nothing is.

    Raises:
        WrongState: ARTIFACT_CORRUPT, there is a manifest that is none.
    """
    key = key_of(prefix, MANIFEST_NAME)
    try:
        return Manifest.from_json(store.get_bytes(key))
    except NotFound:
        return None
    except ValidationError as error:
        raise _corrupt(key, "its manifest cannot be read") from error


def fetch(store: Store, prefix: str, folder: Path) -> Manifest:
    """Bring the committed files, and the manifest last, into `folder`; files that are there already stay.

    Every byte in `folder` that the manifest names is verified; nothing else in `folder` is touched.

    Raises:
        NotFound: ARTIFACT_NOT_FOUND, nothing is committed under `prefix`.
        WrongState: ARTIFACT_CORRUPT, a file is missing or differs from its hash; it is not left in `folder`.
    """
    manifest = read_manifest(store, prefix)
    if manifest is None:
        raise NotFound("ARTIFACT_NOT_FOUND", f"Nothing is committed under {prefix}.", key=prefix)
    for name, entry in sorted(manifest.files.items()):
        path = folder / check_key(name)
        if not (path.is_file() and path.stat().st_size == entry.size_bytes and sha256_of(path) == entry.sha256):
            _download(store, key_of(prefix, name), path, entry)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    return manifest


def key_of(prefix: str, name: str) -> str:
    return check_key(folder_prefix(prefix) + name)


def sha256_of(path: Path) -> str:
    """A file's hash, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _entry(prefix: str, name: str, source: Source) -> FileEntry:
    if name == MANIFEST_NAME:
        raise ValueError(f"{MANIFEST_NAME} is written by commit itself")
    key = key_of(prefix, name)
    if isinstance(source, Path):
        return FileEntry(sha256=sha256_of(source), size_bytes=source.stat().st_size)
    if isinstance(source, bytes):
        return FileEntry(sha256=hashlib.sha256(source).hexdigest(), size_bytes=len(source))
    if source.key != key:
        raise ValueError(f"{name} was stored as {source.key}, not as {key}")
    return FileEntry(sha256=source.sha256, size_bytes=source.size_bytes)


def _upload(store: Store, key: str, source: Source, entry: FileEntry) -> None:
    if isinstance(source, Stored):
        return
    stored = store.upload(source, key) if isinstance(source, Path) else store.put_bytes(key, source)
    if stored.sha256 != entry.sha256:
        raise WrongState("ARTIFACT_CHANGED", f"{key} changed while it was uploaded.", key=key)


def _download(store: Store, key: str, path: Path, entry: FileEntry) -> None:
    try:
        stored = store.download(key, path)
    except NotFound as error:
        raise _corrupt(key, "the manifest names it, but it is missing") from error
    if stored.sha256 != entry.sha256:
        path.unlink()
        raise _corrupt(key, f"its sha256 is {stored.sha256}, the manifest says {entry.sha256}")


def _corrupt(key: str, why: str) -> WrongState:
    return WrongState("ARTIFACT_CORRUPT", f"{key} is damaged: {why}.", key=key, why=why)
