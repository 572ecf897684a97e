"""Checkpoints in the store: written aside, committed by their manifest, found again, and thinned out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson
from safetensors.torch import load_file, save_file

from feinschliff.artifacts.commit import commit, fetch, key_of, read_manifest
from feinschliff.artifacts.store import Store, Stored
from feinschliff.formats.manifest import MANIFEST_NAME, Manifest
from feinschliff.formats.recipe import Checkpointing
from feinschliff.kit.failpoints import fail
from feinschliff.trainer.progress import Posted
from feinschliff.trainer.state import Conditions, TrainState, metrics_csv

if TYPE_CHECKING:
    from torch import Tensor

OPTIMISER_NAME = "optimizer.safetensors"
STATE_NAME = "state.json"
CONDITIONS_NAME = "conditions.json"
REPORTS_NAME = "reports.jsonl"
METRICS_NAME = "metrics.csv"


class Saved(NamedTuple):
    """A checkpoint brought to this machine; `folder` holds the weights in the adaptation's own form."""

    step: int
    digest: str
    folder: Path
    state: TrainState
    conditions: Conditions
    optimiser: dict[str, Tensor]
    reports: list[Posted]


class Checkpoints:
    """The checkpoints of one job, below `{job}/checkpoints/{step}`."""

    def __init__(self, store: Store, job_prefix: str, settings: Checkpointing) -> None:
        self._store = store
        self._prefix = f"{job_prefix}/checkpoints"
        self._settings = settings

    def prefix_of(self, step: int) -> str:
        return f"{self._prefix}/{step}"

    def has(self, step: int) -> bool:
        return read_manifest(self._store, self.prefix_of(step)) is not None

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, growing."""
        keys = self._store.list(self._prefix)
        parts = (key.removeprefix(self._prefix + "/").split("/") for key in keys)
        return sorted(int(part[0]) for part in parts if len(part) == 2 and part[1] == MANIFEST_NAME)

    def commit(
        self,
        weights: Path,
        state: TrainState,
        conditions: Conditions,
        optimiser: dict[str, Tensor],
        reports: Sequence[Posted],
    ) -> Manifest:
        """Make a checkpoint real; `weights` is a folder of the adaptation's files and is used up."""
        fail("checkpoint.before_write")
        save_file(optimiser, weights / OPTIMISER_NAME)
        (weights / STATE_NAME).write_bytes(orjson.dumps(state.model_dump()))
        (weights / CONDITIONS_NAME).write_bytes(orjson.dumps(conditions.model_dump()))
        (weights / METRICS_NAME).write_bytes(metrics_csv(state.history))
        with (weights / REPORTS_NAME).open("wb") as file:
            file.writelines(orjson.dumps(posted.model_dump(mode="json")) + b"\n" for posted in reports)
        prefix = self.prefix_of(state.step)
        stored = upload_folder(self._store, prefix, weights)
        fail("checkpoint.before_commit")
        meta = {"step": state.step, "trained_tokens": state.trained_tokens}
        manifest = commit(self._store, prefix, stored, meta, kind="checkpoint")
        fail("checkpoint.after_commit")
        return manifest

    def newest(self, folder: Path) -> Saved | None:
        """The committed checkpoint with the most steps, fetched into `folder` and verified."""
        steps = self.steps()
        return self.fetch(steps[-1], folder) if steps else None

    def fetch(self, step: int, folder: Path) -> Saved:
        manifest = fetch(self._store, self.prefix_of(step), folder)
        return Saved(
            step=step,
            digest=manifest.digest,
            folder=folder,
            state=TrainState.model_validate_json((folder / STATE_NAME).read_bytes()),
            conditions=Conditions.model_validate_json((folder / CONDITIONS_NAME).read_bytes()),
            optimiser=load_file(folder / OPTIMISER_NAME),
            reports=[Posted.model_validate_json(line) for line in (folder / REPORTS_NAME).read_bytes().splitlines()],
        )

    def thin_out(self, best_step: int) -> None:
        """Delete what neither `keep_last` nor `keep_best` protects."""
        for step in self._settings.superfluous(self.steps(), best_step):
            self._store.delete_prefix(self.prefix_of(step))


def upload_folder(store: Store, prefix: str, folder: Path) -> dict[str, Stored]:
    """Store a folder's files, and those in folders of it, below `prefix`; `commit` makes them real."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    return {name: store.upload(path, key_of(prefix, name)) for name, path in zip(names, paths, strict=True)}
