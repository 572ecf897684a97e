"""Databases of a room, whose tables are made once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

from feinschliff.kit.db import Database


def migrate(url: str, room: str) -> None:
    database = Database(url, room)
    database.upgrade()
    database.close()


def copy_on_sqlite(path: Path, room: str, templates: Path) -> None:
    """A file with the room's tables; the first of its room is kept in `templates`."""
    template = templates / f"{room}.db"
    if not template.exists():
        migrate(f"sqlite:///{template}", room)
    shutil.copyfile(template, path)
