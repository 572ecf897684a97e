"""Several adapters of one base become one: checked when it is asked for, made in the background, registered."""

from __future__ import annotations

import importlib.metadata
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.json_format import ParseDict

from feinschliff.artifacts.commit import commit, fetch, key_of, sha256_of
from feinschliff.artifacts.store import Store
from feinschliff.artifacts.uri import parse_s3, s3_uri
from feinschliff.formats.manifest import FileEntry, Manifest, content_digest
from feinschliff.kit import names
from feinschliff.kit.context import log_context
from feinschliff.kit.errors import Conflict, FieldViolation, Invalid, NotFound, Refusal, Unavailable, WrongState
from feinschliff.registry.adapters import (
    SETTINGS_NAME,
    Source,
    not_combinable,
    read_form,
    refuse_unlike,
    write_combined,
)
from feinschliff.registry.arithmetic import KINDS, Method
from feinschliff.registry.exports import FAILED, SUCCEEDED, Exports
from feinschliff.registry.models import MODEL, VERSION, Asked, Draft, Models
from feinschliff.registry.store import Export, Version
from feinschliff.v1 import training_pb2 as pb

log = logging.getLogger(__name__)

ADAPTERS_MIN, ADAPTERS_MAX, WEIGHT_MAX, DENSITY_DEFAULT = 2, 16, 10.0, 0.5
COMBINABLE = ("lora",)  # what made them, by the recipe's names
CHAT_FILES = ("chat_template.jinja", "chat.json")  # how the model is spoken to; equal for all, so the first one's
SAME = {  # what must be equal, and how a person calls it
    "base_digest": "base model",
    "tokenizer_hash": "tokenizer",
    "chat_template_hash": "chat template",
}
KEPT = ("base_model", *SAME, "stop_token_ids", "generation_defaults")
TICK_SECONDS = 2.0


@dataclass(frozen=True)
class Part:
    """One adapter and how much of it."""

    model_version: str
    weight: float = 1.0


@dataclass(frozen=True)
class Wish:
    """What to combine, and how; `density` is for `ties` and `dare` alone."""

    adapters: Sequence[Part]
    method: str = "linear"
    density: float = DENSITY_DEFAULT

    def as_method(self) -> Method:
        return Method(self.method, self.density if self.method in ("ties", "dare") else 1.0)


class Combinations:
    """What is asked for is checked at once; `turn` does the work, and may be called from several copies of the room."""

    def __init__(self, exports: Exports, models: Models, artifacts: Store) -> None:
        self._exports = exports
        self._models = models
        self._artifacts = artifacts

    def ask(self, model: str, wish: Wish, asked: Asked, *, validate_only: bool = False) -> Export:
        """Queues one version made from several.

        Raises:
            Invalid: COMBINATION_INVALID.
            NotFound: MODEL_VERSION_NOT_FOUND, ARTIFACT_NOT_FOUND.
            WrongState: ADAPTERS_UNLIKE, ADAPTER_NOT_COMBINABLE.
        """
        names.parse(MODEL, model, field="parent")
        refuse_what_is_out_of_range(wish)
        self._check(wish)
        kept = {**asdict(wish), "adapters": [asdict(part) for part in wish.adapters]}
        return self._exports.draft(model, kept) if validate_only else self._exports.ask(model, kept, asked)

    def turn(self) -> None:
        """Makes all that is due, one after the other; one bad wish never stops the others."""
        for name in self._exports.due():
            export = self._exports.take(name)
            if export is not None:
                with log_context(export=name):
                    _Work(self._exports, export).run(self._make)

    def _check(self, wish: Wish) -> list[Version]:
        versions = [self._models.version(part.model_version).version for part in wish.adapters]
        refuse_others(versions)
        forms = []
        for version in versions:
            bucket, prefix = parse_s3(version.adapter_uri)
            try:
                settings = self._artifacts.in_bucket(bucket).get_bytes(key_of(prefix, SETTINGS_NAME))
            except NotFound:
                raise not_combinable(version.name, "it has no settings of an adapter") from None
            forms.append(read_form(version.name, settings))
        refuse_unlike(forms, wish.as_method())
        return versions

    def _make(self, work: _Work) -> None:
        wish = _wish_of(work.export)
        versions = self._check(wish)
        with tempfile.TemporaryDirectory(prefix="feinschliff-combine-") as place:
            sources = [
                Source(version.name, self._fetched(version, Path(place) / str(at), work), part.weight)
                for at, (version, part) in enumerate(zip(versions, wish.adapters, strict=True))
            ]
            target = Path(place) / "combined"
            write_combined(sources, wish.as_method(), target, tick=work.tick)
            weights_digest = _digest_of(target)
            for path in (sources[0].folder / name for name in CHAT_FILES):
                if path.is_file():
                    (target / path.name).write_bytes(path.read_bytes())
            manifest = commit(
                self._artifacts,
                work.export.name,
                {path.name: path for path in sorted(target.iterdir())},
                {"method": wish.method, "density": wish.density, "adapters": _described(wish, versions)},
                kind="export",
            )
        work.hold()  # one that was cancelled while its files were stored becomes no version
        self._register(work, versions, manifest, weights_digest)

    def _fetched(self, version: Version, folder: Path, work: _Work) -> Path:
        bucket, prefix = parse_s3(version.adapter_uri)
        manifest = fetch(self._artifacts.in_bucket(bucket), prefix, folder)
        recorded = version.record.get("adapter", {}).get("sha256", "")
        if recorded and manifest.digest != f"sha256:{recorded}":
            raise WrongState(
                "ADAPTER_DIGEST_MISMATCH",
                f"The files at {version.adapter_uri} are not those that {version.name} recorded.",
                model=version.name,
                recorded=recorded,
                found=manifest.digest,
            )
        work.tick(0, 0)
        return folder

    def _register(self, work: _Work, versions: Sequence[Version], manifest: Manifest, digest: str) -> None:
        uri = s3_uri(self._artifacts.bucket, work.export.name)
        draft = draft_of(versions, _wish_of(work.export), uri, manifest, digest)
        asked = Asked(work.export.name.rsplit("/", 1)[1], manifest.digest.removeprefix("sha256:"))
        parents = [version.name for version in versions]
        made = self._models.create_version(work.export.model, draft, asked, create_model=True, parents=parents)
        self._exports.end(
            work.export,
            SUCCEEDED,
            artifact_uri=uri,
            artifact_sha256=manifest.digest.removeprefix("sha256:"),
            files={name: entry.model_dump() for name, entry in manifest.files.items()},
            result_version=made.version.name,
        )


class _Work:
    """One export in the hands of this process."""

    def __init__(self, exports: Exports, export: Export) -> None:
        self._exports = exports
        self.export = export
        self._ticked = time.monotonic()

    def run(self, make: Callable[[_Work], None]) -> None:
        try:
            make(self)
        except Conflict:
            log.info("the export was cancelled, or somebody else took it over")
        except Unavailable as refusal:
            log.warning("the export has to wait: %s", refusal.message, extra={"reason": refusal.reason})
            with suppress(Conflict):
                self._exports.put_back(self.export)
        except Refusal as refusal:
            self._fail(refusal.reason, refusal.message, list(refusal.advice))
        except Exception:
            log.exception("the export failed")
            self._fail("EXPORT_FAILED", "A fault of ours ended it; the log of the registry tells more.", [])

    def tick(self, done: int, total: int) -> None:
        """Raises Conflict where the export is no longer ours."""
        if time.monotonic() - self._ticked >= TICK_SECONDS or done == total > 0:
            self.hold(done=done, total=total)

    def hold(self, **progress: int) -> None:
        """Raises Conflict where the export is no longer ours."""
        self.export = self._exports.keep(self.export, **progress)
        self._ticked = time.monotonic()

    def _fail(self, reason: str, message: str, advice: list[str]) -> None:
        failure = {"reason": reason, "message": message, "advice": advice, "retryable": False}
        try:
            self._exports.end(self.export, FAILED, failure=failure)
        except Conflict:
            log.info("the export was cancelled, or somebody else took it over")


def refuse_what_is_out_of_range(wish: Wish) -> None:
    """
    Raises:
        Invalid: COMBINATION_INVALID, naming each wrong field.
    """
    problems: list[tuple[str, str]] = []
    if not ADAPTERS_MIN <= len(wish.adapters) <= ADAPTERS_MAX:
        problems.append(("adapters", f"{ADAPTERS_MIN} to {ADAPTERS_MAX} are combined, not {len(wish.adapters)}"))
    seen: set[str] = set()
    for place, part in enumerate(wish.adapters):
        if not names.matches(VERSION, part.model_version):
            problems.append((f"adapters[{place}].model_version", f"must have the form {VERSION}"))
        if part.model_version in seen:
            problems.append((f"adapters[{place}].model_version", "is named twice; add up the weights"))
        seen.add(part.model_version)
        if not (abs(part.weight) <= WEIGHT_MAX and part.weight):
            problems.append((f"adapters[{place}].weight", f"must be -{WEIGHT_MAX:.0f} to {WEIGHT_MAX:.0f} and not 0"))
    if wish.method not in KINDS:
        problems.append(("method", f"is none of {', '.join(KINDS)}"))
    if not 0 < wish.density <= 1:
        problems.append(("density", "must be above 0 and at most 1"))
    if problems:
        fields = [FieldViolation(path, why, "COMBINATION_INVALID") for path, why in problems]
        text = "; ".join(f"{path} {why}" for path, why in problems)
        raise Invalid("COMBINATION_INVALID", f"The adapters cannot be combined so: {text}.", fields=fields)


def refuse_others(versions: Sequence[Version]) -> None:
    """
    Raises:
        WrongState: ADAPTER_NOT_COMBINABLE for what is no low-rank adapter, ADAPTERS_UNLIKE where they belong to
            different bases or are spoken to differently.
    """
    for version in versions:
        made_by = adaptation_of(version)
        if version.kind != "adapter":
            raise not_combinable(version.name, f"it is of the kind {version.kind}")
        if made_by not in COMBINABLE:
            raise not_combinable(version.name, f"it was trained as {made_by}")
    first = versions[0]
    for field, word in SAME.items():
        for other in versions[1:]:
            if other.record.get(field, "") != first.record.get(field, ""):
                message = f"{first.name} and {other.name} have different {word}s; combine adapters of one."
                raise WrongState("ADAPTERS_UNLIKE", message, differs=field)


def adaptation_of(version: Version) -> str:
    """The recipe's name of what made it; what has no recipe is taken for low-rank adapters, and its files tell."""
    recipe = pb.TrainingRecipe()
    ParseDict(version.record.get("recipe", {}), recipe, ignore_unknown_fields=True)
    return str(recipe.WhichOneof("adaptation") or "lora")


def draft_of(versions: Sequence[Version], wish: Wish, uri: str, manifest: Manifest, digest: str) -> Draft:
    """The record of the combined version; what it learned from is its parents' to tell."""
    first, sha256 = versions[0], manifest.digest.removeprefix("sha256:")
    size_bytes = sum(entry.size_bytes for entry in manifest.files.values())
    record: dict[str, Any] = {key: first.record[key] for key in KEPT if key in first.record}
    return Draft(
        kind="adapter",
        base_model=first.base_model,
        base_digest=first.base_digest,
        adapter_uri=uri,
        adapter_sha256=sha256,
        adapter_digest=digest,
        training_job="",
        parent_version="",
        public_name="",
        labels={},
        annotations={
            "combined.method": wish.method if not wish.as_method().density < 1 else f"{wish.method} {wish.density}",
            "combined.adapters": ", ".join(f"{part.weight:g} x {part.model_version}" for part in wish.adapters),
        },
        datasets=[],
        record={
            **record,
            "kind": "KIND_ADAPTER",
            "adapter": {"uri": uri, "sha256": sha256, "size_bytes": str(size_bytes)},
            "adapter_digest": digest,
            "code_version": importlib.metadata.version("feinschliff"),
            "environment": {"numpy": np.__version__},
        },
    )


def _described(wish: Wish, versions: Sequence[Version]) -> list[Any]:
    return [
        {"model_version": part.model_version, "weight": part.weight, "adapter_digest": version.adapter_digest}
        for part, version in zip(wish.adapters, versions, strict=True)
    ]


def _wish_of(export: Export) -> Wish:
    kept: Mapping[str, Any] = export.wish
    return Wish([Part(**part) for part in kept["adapters"]], kept["method"], kept["density"])


def _digest_of(folder: Path) -> str:
    files = {path.name: FileEntry(sha256=sha256_of(path), size_bytes=path.stat().st_size) for path in folder.iterdir()}
    return content_digest(files)
