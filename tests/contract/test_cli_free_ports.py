"""Ports are handed out in turns that all processes of a user share."""

from __future__ import annotations

import socket
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from feinschliff.cli.free_ports import LOOPBACK, PAIR_OFFSET, PAIRS, SINGLES, free_pair, free_ports, is_free


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_processes_that_ask_at_once_get_different_ports(folder: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        taken = [port for ports in pool.map(free_ports, [20] * 40) for port in ports]

    assert len(set(taken)) == 800


def test_a_port_that_somebody_listens_on_is_passed_over(folder: Path) -> None:
    [before] = free_ports(1)
    with socket.socket() as taken:
        taken.bind((LOOPBACK, SINGLES[0] + (before + 1 - SINGLES[0]) % (SINGLES[1] - SINGLES[0])))
        taken.listen()
        assert not is_free(taken.getsockname()[1])
        assert free_ports(1) != [taken.getsockname()[1]]


def test_after_the_last_comes_the_first(folder: Path) -> None:
    free_ports(1)
    [count] = folder.iterdir()
    count.write_text(str(SINGLES[1] - SINGLES[0] - 1))

    assert all(SINGLES[0] <= port < SINGLES[0] + 100 for port in free_ports(3))


def test_both_of_a_pair_are_free_and_below_what_systems_give_out(folder: Path) -> None:
    port = free_pair()

    assert PAIRS[0] <= port < PAIRS[1]
    assert is_free(port + PAIR_OFFSET)
    assert port + PAIR_OFFSET < 32_768


@pytest.mark.parametrize("left", ["", "not a number", "9" * 30])
def test_a_count_that_cannot_be_read_begins_anew(folder: Path, left: str) -> None:
    first = free_ports(1)
    [count] = folder.iterdir()
    count.write_text(left)

    assert len({*first, *free_ports(50)}) >= 50


def test_without_a_folder_ports_are_still_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "missing"))

    assert len(free_ports(5)) == 5
