"""A part that dies is started again, ever more slowly; one that is stopped stays down."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from feinschliff.cli.keeper import Keeper, pause_seconds
from feinschliff.cli.parts import ModulePart
from feinschliff.kit.errors import StartError, WrongState
from tests.support.waiting import eventually


class Script:
    """A part that runs Python lines, one program per start; the last one again and again."""

    name = "script"

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)
        self.starts = 0

    def start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        line = self._lines.pop(0) if len(self._lines) > 1 else self._lines[0]
        if line == "refuse":
            raise WrongState("S3_PORT_TAKEN", "The port is taken.")
        return subprocess.Popen([sys.executable, "-c", line], stdin=subprocess.PIPE)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        process.communicate()

    def is_hopeless(self, exit_code: int) -> bool:
        return exit_code == StartError.exit_code

    def last_words(self) -> str:
        return "last words"


STAYS = "input()"


class Kept:
    def __init__(self, lines: Sequence[str]) -> None:
        self.script = Script(*lines)
        self.changes = threading.Semaphore(0)
        self.keeper = Keeper(self.script, self.changes.release)


@pytest.fixture
def keep() -> Iterator[object]:
    made: list[Kept] = []

    def start(*lines: str) -> Kept:
        made.append(Kept(lines))
        made[-1].keeper.start()
        return made[-1]

    yield start
    for kept in made:
        kept.keeper.stop()


def test_pauses_grow_to_half_a_minute() -> None:
    assert [pause_seconds(n) for n in (1, 2, 3, 4, 20)] == [0.5, 1.0, 2.0, 4.0, 30.0]


def test_a_part_that_dies_is_started_again_and_counted(keep) -> None:  # type: ignore[no-untyped-def]
    kept = keep("raise SystemExit(7)", STAYS)
    eventually(lambda: kept.script.starts == 2 and kept.keeper.child().process, 30, "the second start")
    assert kept.keeper.restarts == 1
    assert kept.keeper.problem == "script ended with 7: last words"
    assert not kept.keeper.is_hopeless


@pytest.mark.parametrize("line", ["refuse", f"raise SystemExit({StartError.exit_code})"])
def test_a_part_that_cannot_start_says_so(keep, line: str) -> None:  # type: ignore[no-untyped-def]
    kept = keep(line)
    eventually(lambda: kept.keeper.restarts > 0, 30, "the first failure")
    assert kept.keeper.is_hopeless
    assert "port is taken" in kept.keeper.problem or "last words" in kept.keeper.problem


def test_a_stopped_part_is_not_started_again(keep) -> None:  # type: ignore[no-untyped-def]
    kept = keep(STAYS)
    eventually(lambda: kept.keeper.child().process is not None, 30, "the start")
    kept.keeper.stop()
    assert kept.keeper.child().process is None
    assert (kept.script.starts, kept.keeper.restarts) == (1, 0)


def test_a_pause_is_cut_short_by_the_stop(keep) -> None:  # type: ignore[no-untyped-def]
    kept = keep("raise SystemExit(7)")
    eventually(lambda: kept.keeper.restarts >= 2, 30, "two failures")
    kept.keeper.stop()
    starts = kept.script.starts
    assert not kept.keeper._thread.is_alive()
    assert kept.script.starts == starts


def test_a_part_that_never_ran_can_be_stopped() -> None:
    Keeper(Script(STAYS), lambda: None).stop()


def test_a_tied_program_ends_when_its_parent_lets_go(tmp_path: Path) -> None:
    part = ModulePart("timer", "tests.unit.cli.forever", {}, tmp_path / "timer.log", 10)
    process = part.start()
    eventually(lambda: "running" in (tmp_path / "timer.log").read_text(), 20, "the program")
    assert process.stdin is not None
    process.stdin.close()
    process.wait(20)
    assert "told to stop" in (tmp_path / "timer.log").read_text()


def test_last_words_are_of_the_last_start_and_plain_lines_go_first(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    log.write_text("an old line\n")
    part = ModulePart("part", "no.such.module", {}, log, 10)
    process = part.start()
    process.wait(20)  # with its input still open: a tied program whose input closes is told to stop
    assert process.stdin is not None
    process.stdin.close()
    assert "an old line" not in part.last_words()
    assert "no.such" in part.last_words() or "ModuleNotFoundError" in part.last_words()
