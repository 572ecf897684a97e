"""Encoded rows are found again by later jobs, byte for byte, and never half."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feinschliff.formats.runfile import DataPart
from feinschliff.kit.errors import NotFound
from feinschliff.lm.chat import Chat, Encoded
from feinschliff.lm.encoding import RowEncoder
from feinschliff.lm.load import load_tokenizer
from feinschliff.trainer import kept_rows
from feinschliff.trainer.data import LongRows
from feinschliff.trainer.kept_rows import KeptRows, find, keep, name_for
from feinschliff.trainer.table import Table
from tests.unit.trainer.conftest import MakeWorkshop

ROWS = [
    Encoded([1, 2, 3], [False, True, True]),
    Encoded([4, 5], [False, True], (1.0,)),
    Encoded([6, 7, 8, 9], [False, False, False, True], (0.0, 2.0)),
]


def table_of(rows: list[Encoded]) -> Table:
    table = Table()
    for row in rows:
        table.append(row)
    return table


def kept(rows: list[Encoded] = ROWS, **long_rows: int) -> KeptRows:
    return KeptRows(table_of(rows).block_from(0), LongRows(**long_rows))


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], []], ids=["three", "one without targets", "none"])
def test_rows_come_back_as_they_were(tmp_path: Path, rows: list[Encoded]) -> None:
    keep(tmp_path, "a", kept(rows, truncated=3, dropped=2), bytes_max=1 << 20)
    found = find(tmp_path, "a")

    assert found is not None
    assert found.long_rows == LongRows(truncated=3, dropped=2)
    table = table_of(ROWS)
    table.append_block(found.block)
    assert [table[k] for k in range(len(table))] == [*ROWS, *rows]
    assert table.lengths() == [len(row.token_ids) - 1 for row in [*ROWS, *rows]]


def test_a_block_begins_where_a_part_began() -> None:
    table = table_of(ROWS)
    other = Table()
    other.append_block(table.block_from(1))
    assert [other[k] for k in range(len(other))] == ROWS[1:]


def test_what_nobody_kept_is_not_found(tmp_path: Path) -> None:
    assert find(tmp_path / "not there", "a") is None


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone", "index"])
def test_a_damaged_entry_is_removed_and_made_again(tmp_path: Path, damage: str) -> None:
    keep(tmp_path, "a", kept(), bytes_max=1 << 20)
    path = tmp_path / "a" / ("index.json" if damage == "index" else "token_ids.npy")
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"changed": data[:-1] + b"\x7f", "shorter": data[:-4], "index": b"{"}[damage])

    assert find(tmp_path, "a") is None
    keep(tmp_path, "a", kept(), bytes_max=1 << 20)
    assert find(tmp_path, "a") is not None


def test_the_first_of_two_writers_stays(tmp_path: Path) -> None:
    keep(tmp_path, "a", kept(truncated=1), bytes_max=1 << 20)
    before = (tmp_path / "a").stat().st_ino
    keep(tmp_path, "a", kept(truncated=1), bytes_max=1 << 20)

    assert (tmp_path / "a").stat().st_ino == before
    assert entries(tmp_path) == ["a"]


def test_the_longest_unused_entries_make_room(tmp_path: Path) -> None:
    many = [Encoded([0] * 1000, [True] * 1000)]
    for age, name in ((300, "old"), (200, "used"), (100, "young")):
        keep(tmp_path, name, kept(many), bytes_max=1 << 20)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert find(tmp_path, "used") is not None

    keep(tmp_path, "new", kept(many), bytes_max=20_000)

    assert entries(tmp_path) == ["new", "used", "young"]
    keep(tmp_path, "too large", kept(many), bytes_max=4_000)
    assert entries(tmp_path) == ["new", "used", "young"]


def test_what_is_long_unused_or_half_written_goes(tmp_path: Path) -> None:
    keep(tmp_path, "a", kept(), bytes_max=1 << 20)
    for name, age in (("a", 31 * 86_400), ("b.killed", 2 * 3600), ("c.writing", 10)):
        (tmp_path / name).mkdir(exist_ok=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)

    keep(tmp_path, "d", kept(), bytes_max=1 << 20)

    assert entries(tmp_path) == ["c.writing", "d"]


def test_mapped_rows_outlive_their_entry(tmp_path: Path) -> None:
    keep(tmp_path, "a", kept(), bytes_max=1 << 20)
    found = find(tmp_path, "a")
    kept_rows.trim(tmp_path, bytes_max=0)

    assert entries(tmp_path) == []
    assert found is not None
    assert np.array_equal(found.block["token_ids"], [1, 2, 3, 4, 5, 6, 7, 8, 9])


def test_a_full_disk_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_rows.np, "save", full)
    keep(tmp_path, "a", kept(), bytes_max=1 << 20)
    assert entries(tmp_path) == []


def test_the_name_tells_what_rows_depend_on(tiny_model: Path, workshop: MakeWorkshop) -> None:
    recipe = workshop().runfile().recipe
    chat = Chat.of(load_tokenizer(tiny_model))

    def name(part: DataPart | None = None, **changes: Any) -> str:
        given = part or DataPart(dataset_version="v", prefix="p", sha256="1", splits=["train"])
        objective = recipe.objective.model_copy(update=changes.pop("objective", {}))
        return name_for(given, RowEncoder(chat, objective), recipe.optimisation.model_copy(update=changes))

    same = DataPart(dataset_version="other name", prefix="q", sha256="1", splits=["train"], weight=2.0)
    others = [
        name(same.model_copy(update={"sha256": "2"})),
        name(same.model_copy(update={"splits": ["test"]})),
        name(objective={"loss_on": "last_assistant_turn"}),
        name(max_row_tokens=16),
        name(on_long_row="drop"),
    ]
    assert name() == name(same) == name(epochs=7.0, learning_rate=1e-5)
    assert len({name(), *others}) == 6

    plain = name()
    chat = replace(chat, day=date(2024, 7, 26))
    assert name() == plain, "the template does not ask for the day"
    chat = replace(chat, template=chat.template + "{{ strftime_now('%d') }}")
    first = name()
    chat = replace(chat, day=date(2024, 7, 27))
    assert name() != first


def test_a_second_job_on_the_same_rows_encodes_none_and_ends_alike(
    workshop: MakeWorkshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = workshop(), workshop()
    first = one.run(failpoints="rows.before_kept=kill", expect=-signal.SIGKILL)
    assert first is None
    folder = one.folder / "home" / "cache" / "tokens"
    assert [name for name in entries(folder) if "." not in name] == []
    expected = one.run(attempt=2)
    assert len([name for name in entries(folder) if "." not in name]) == 2

    other.folder.joinpath("home", "cache").mkdir(parents=True)
    folder.rename(other.folder / "home" / "cache" / "tokens")
    times = {path: path.stat().st_mtime for path in (other.folder / "home" / "cache" / "tokens").glob("*/*.npy")}
    again = other.run()

    assert again is not None
    assert expected is not None
    assert again.digest == expected.digest
    assert {path: path.stat().st_mtime for path in times} == times


def test_kept_rows_of_a_data_set_that_is_gone_are_not_used(workshop: MakeWorkshop) -> None:
    one = workshop(optimisation={"epochs": 1, "batch_size": 4})
    folder = one.folder / "home" / "cache" / "tokens"
    name = "a"
    keep(folder, name, kept(), bytes_max=1 << 20)

    def refuse() -> None:
        raise NotFound("DATASET_VERSION_MISSING", "gone")

    with pytest.raises(NotFound):
        kept_rows.load(Table(), folder, name, bytes_max=1 << 20, encode=LongRows, prove=refuse)
