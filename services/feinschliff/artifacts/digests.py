"""Hashes of large files, computed once per path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from feinschliff.artifacts.commit import sha256_of


class Digests:
    """A folder that remembers hashes; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sha256(self, path: Path) -> str:
        """The file's hash; read anew only if path, size or modification time (ns) differ from the last time."""
        stat = path.stat()
        facts = [str(path), stat.st_size, stat.st_mtime_ns]
        note = self._folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
        known = self._read(note)
        if known is not None and known[:3] == facts:
            return str(known[3])
        digest = sha256_of(path)
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._folder, prefix=".", delete=False, encoding="utf-8") as aside:
            json.dump([*facts, digest], aside)
        Path(aside.name).replace(note)
        return digest

    @staticmethod
    def _read(note: Path) -> list[str | int] | None:
        try:
            known = json.loads(note.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return known if isinstance(known, list) and len(known) == 4 else None
