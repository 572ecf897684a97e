"""A local folder for files on their way to the store."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Scratch:
    """Folders of one attempt, removed at its end; those that a killed attempt of the job left go at the start.

    `place` belongs to one platform: another one may have a job of the same name.
    """

    def __init__(self, job: str, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        stem = f"{hashlib.sha256(job.encode()).hexdigest()[:12]}-"
        for leftover in place.glob(f"{stem}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix=stem, dir=place))
        self._count = 0

    def new_folder(self) -> Path:
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        return folder

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """One that goes with the block: what is tried again and again must not pile up."""
        folder = self.new_folder()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
