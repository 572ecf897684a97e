"""The key pair of the embedded S3 server: made once, kept for its owner's eyes only."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import NamedTuple

from feinschliff.kit.errors import WrongState

_OWNER_ONLY = 0o077


class S3Keys(NamedTuple):
    access_key: str
    secret_key: str


def s3_keys(home: Path) -> S3Keys:
    """The pair of this home; made by the first call, the same ever after, whoever calls at the same time.

    Raises:
        WrongState: KEYS_EXPOSED where others may read the file, KEYS_UNREADABLE where it is damaged.
    """
    path = home / "keys" / "s3.json"
    if not path.exists():
        _make(path)
    if path.stat().st_mode & _OWNER_ONLY:
        command = f"chmod 600 {path}"
        message = f"{path} can be read by other users of this machine. Run: {command}"
        raise WrongState("KEYS_EXPOSED", message, advice=[command], path=path)
    try:
        return S3Keys(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        message = f"{path} is damaged. Remove it: a new pair is made, and opens what is stored as well."
        raise WrongState("KEYS_UNREADABLE", message, path=path) from error


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pair = S3Keys(secrets.token_hex(10), secrets.token_urlsafe(30))
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", encoding="utf-8") as aside:
        json.dump(pair._asdict(), aside)
        aside.flush()
        os.fsync(aside.fileno())
        try:
            os.link(aside.name, path)
        except FileExistsError:
            return
