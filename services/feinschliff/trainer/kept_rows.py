"""Rows that an earlier job of this machine has encoded, kept in mapped files under a name that says what they are.

An entry is a folder that appears by one rename when all its files are on the disk, so a killed writer leaves none, and
of two writers at once the first one's stays; both have the same bytes. It is read only where its hashes hold.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from pydantic import ValidationError

from feinschliff.artifacts.commit import sha256_of
from feinschliff.formats import records
from feinschliff.formats.base import Stored
from feinschliff.formats.optimisation import Optimisation
from feinschliff.formats.runfile import DataPart
from feinschliff.kit.failpoints import fail
from feinschliff.lm import chat, encoding, template, tokens
from feinschliff.lm.encoding import RowEncoder
from feinschliff.trainer import data
from feinschliff.trainer import table as rows_table
from feinschliff.trainer.data import LongRows
from feinschliff.trainer.table import ARRAYS, Arrays, Table

logger = logging.getLogger(__name__)

INDEX_NAME = "index.json"
UNUSED_DAYS_MAX = 30
"""What nobody asked for in so long is removed by the next job that keeps something."""
ABANDONED_SECONDS = 3600
"""Age at which a half-written entry is that of a killed writer."""


class KeptIndex(Stored):
    """What an entry's files are, and what was done to rows beyond the limit."""

    sha256: dict[str, str]
    truncated: int
    dropped: int


class KeptRows(NamedTuple):
    """A part of the data, encoded."""

    block: Arrays
    long_rows: LongRows


def load(
    table: Table,
    folder: Path,
    name: str,
    *,
    bytes_max: int,
    encode: Callable[[], LongRows],
    prove: Callable[[], object],
) -> LongRows:
    """Append rows to `table`: kept ones, after `prove` did not refuse them, or those that `encode` appends.

    Args:
        name: see `name_for`; empty keeps nothing.
        bytes_max: of all entries together.
    """
    kept = find(folder, name) if name else None
    if kept is not None:
        prove()
        table.append_block(kept.block)
        return kept.long_rows
    first = len(table)
    counts = encode()
    if name:
        keep(folder, name, KeptRows(table.block_from(first), counts), bytes_max=bytes_max)
    return counts


def name_for(part: DataPart, encoder: RowEncoder, settings: Optimisation) -> str:
    """The name of a part's rows: it changes with all that they depend on, the code that encodes included."""
    told = {
        "version": part.sha256,
        "splits": list(part.splits),
        "tokenizer": encoder.chat.tokenizer_hash,
        "template": encoder.chat.template_hash,
        "special_tokens": dict(encoder.chat.tokenizer.special_tokens_map),
        "day": encoder.chat.template_day and encoder.chat.template_day.isoformat(),
        "objective": encoder.objective.model_dump(mode="json"),
        "head": encoder.facts and encoder.facts.model_dump(mode="json"),
        "limits": settings.model_dump(include={"max_row_tokens", "on_long_row"}),
        "code": _code(),
    }
    return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()


@lru_cache(maxsize=1)
def _code() -> list[str]:
    """Hashes of the code and versions of the libraries that make tokens."""
    files = [Path(str(module.__file__)) for module in (chat, encoding, template, tokens, records, data, rows_table)]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashes + [importlib.metadata.version(name) for name in ("tokenizers", "jinja2")]


def find(folder: Path, name: str) -> KeptRows | None:
    """An entry whose hashes hold; a damaged one is removed. None: there is none."""
    entry = folder / name
    if not entry.is_dir():
        return None
    try:
        index = KeptIndex.model_validate_json((entry / INDEX_NAME).read_bytes())
        damaged = [one for one in ARRAYS if sha256_of(entry / f"{one}.npy") != index.sha256.get(one)]
        if damaged:
            raise ValueError(f"{', '.join(damaged)} changed")
        block = {one: np.asarray(np.load(entry / f"{one}.npy", mmap_mode="r", allow_pickle=False)) for one in ARRAYS}
        os.utime(entry)
    except (OSError, ValueError, ValidationError) as error:
        logger.warning("kept rows are damaged and will be encoded again", extra={"entry": name, "why": str(error)})
        _remove(entry)
        return None
    return KeptRows(block, LongRows(index.truncated, index.dropped))


def keep(folder: Path, name: str, rows: KeptRows, *, bytes_max: int) -> None:
    """Keep an entry for later jobs, and as many others as fit beside it, those used last; a full disk only warns."""
    size = sum(array.nbytes for array in rows.block.values())
    if size > bytes_max:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        trim(folder, bytes_max=bytes_max - size)
        aside = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder))
        try:
            _write(aside, rows)
            fail("rows.before_kept")
            aside.rename(folder / name)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    except OSError as error:
        if not (folder / name).is_dir():
            logger.warning("encoded rows are not kept for later jobs", extra={"why": str(error)})


def trim(folder: Path, *, bytes_max: int) -> None:
    """Remove entries until the rest fits, the longest unused first, and what killed writers left."""
    now, room = time.time(), bytes_max
    for age, entry in sorted((now - _modified(entry), entry) for entry in folder.iterdir()):
        if "." in entry.name:
            if age > ABANDONED_SECONDS:
                _remove(entry)
            continue
        room -= _size(entry)
        if room < 0 or age > UNUSED_DAYS_MAX * 86_400:
            _remove(entry)


def _write(folder: Path, rows: KeptRows) -> None:
    for name, array in rows.block.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    hashes = {name: sha256_of(folder / f"{name}.npy") for name in rows.block}
    index = KeptIndex(sha256=hashes, truncated=rows.long_rows.truncated, dropped=rows.long_rows.dropped)
    (folder / INDEX_NAME).write_text(index.model_dump_json(), "utf-8")


def _remove(entry: Path) -> None:
    """Out of sight first, so that nobody opens half an entry; who has mapped its files keeps them."""
    aside = entry.with_name(f"{entry.name}.{time.monotonic_ns()}")
    try:
        entry.rename(aside)
    except OSError:
        return
    shutil.rmtree(aside, ignore_errors=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _size(entry: Path) -> int:
    return sum(_bytes(entry.glob("*")))


def _bytes(paths: Iterable[Path]) -> Iterable[int]:
    for path in paths:
        try:
            yield path.stat().st_size
        except FileNotFoundError:
            continue
