"""Brings bases and adapters to this machine and into an engine, every byte verified against its recorded digest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feinschliff.artifacts import bases
from feinschliff.artifacts.commit import fetch
from feinschliff.artifacts.store import Store
from feinschliff.artifacts.uri import parse_s3
from feinschliff.formats.heads import HEAD_SETTINGS_NAME
from feinschliff.formats.manifest import Manifest, content_digest
from feinschliff.inference.engine import Engine
from feinschliff.inference.engines import ENGINES, EngineOptions, resolve_precision
from feinschliff.inference.life import Version
from feinschliff.inference.pool import BaseKey, Located, Source
from feinschliff.kit.errors import WrongState

_LEARNED_FILES = ("adapter_config.json", "adaptation.json", "config.json", "generation_config.json", HEAD_SETTINGS_NAME)
_LEARNED_ENDINGS = (".safetensors", ".safetensors.index.json")


class ArtifactLoader:
    """See `pool.Loader`."""

    def __init__(self, store: Store, options: EngineOptions, *, offline: bool) -> None:
        self._store = store
        self._options = options
        self._offline = offline

    def locate(self, source: Source) -> Located:
        files = bases.resolve(source.uri, self._store, self._options.cache_dir, offline=self._offline)
        precision = resolve_precision(source.precision, source.engine)
        return Located(files, BaseKey(files.digest, precision, source.engine))

    def load(self, located: Located) -> Engine:
        return ENGINES[located.key.engine](located.files, located.key.precision, self._options)

    @contextmanager
    def fetch(self, version: Version) -> Iterator[Path]:
        bucket, prefix = parse_s3(version.adapter_uri)
        with tempfile.TemporaryDirectory(prefix="feinschliff-adapter-") as folder:
            manifest = fetch(self._store.in_bucket(bucket), prefix, Path(folder))
            refuse_other_content(version, manifest)
            yield Path(folder)


def refuse_other_content(version: Version, manifest: Manifest) -> None:
    """Raises WrongState ADAPTER_DIGEST_MISMATCH unless the files are those that the version recorded."""
    weights = {name: entry for name, entry in manifest.files.items() if _is_learned(name)}
    digests = {manifest.digest, content_digest(weights)}
    folder_is_recorded = version.adapter_sha256 in ("", manifest.digest.removeprefix("sha256:"))
    if version.adapter_digest not in digests or not folder_is_recorded:
        raise WrongState(
            "ADAPTER_DIGEST_MISMATCH",
            f"The files at {version.adapter_uri} are not those that {version.name} recorded.",
            advice=["Verify the model version in the registry; its files were changed or its record is wrong."],
            model=version.name,
            recorded=version.adapter_digest,
            found=manifest.digest,
        )


def _is_learned(name: str) -> bool:
    """Whether a file of a result is one that its digest counts: what was learned, not how it is spoken to."""
    return name in _LEARNED_FILES or name.endswith(_LEARNED_ENDINGS)
