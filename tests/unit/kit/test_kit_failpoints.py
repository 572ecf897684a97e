"""Faults on purpose."""

import os
import signal
from collections.abc import Iterator

import pytest

from feinschliff.kit import failpoints
from feinschliff.kit.errors import StartError
from feinschliff.kit.failpoints import InjectedFault, configure, fail


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    configure("")


def hits(times: int) -> list[bool]:
    outcomes = []
    for _ in range(times):
        try:
            fail("test.here")
            outcomes.append(False)
        except InjectedFault:
            outcomes.append(True)
    return outcomes


def test_nothing_happens_where_nothing_is_armed() -> None:
    configure("")
    assert hits(3) == [False] * 3


def test_raise_is_every_hit_or_the_given_one() -> None:
    configure("test.here=raise")
    assert hits(3) == [True] * 3
    configure("test.here=raise@2")
    assert hits(4) == [False, True, False, False]


def test_configuring_again_counts_from_the_start() -> None:
    configure("test.here=raise@2")
    hits(1)
    configure("test.here=raise@2")
    assert hits(2) == [False, True]


def test_delay_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(failpoints.time, "sleep", waited.append)
    configure("test.here=delay:0.5@2")
    hits(3)
    assert waited == [0.5]


@pytest.mark.parametrize(("spec", "turn"), [("kill", 1), ("kill@3", 3)])
def test_kill_ends_the_process_at_its_turn(spec: str, turn: int) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        configure(f"test.here={spec}")
        for _ in range(5):
            fail("test.here")
            os.write(write, b"x")
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    passed = os.read(read, 10)
    os.close(read)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(passed) == turn - 1


@pytest.mark.parametrize(
    "spec",
    [
        "checkpiont.before_write=kill",
        "test.here",
        "test.here=explode",
        "test.here=raise@x",
        "test.here=raise@-1",
        "test.here=delay",
        "test.here=delay:soon",
        "test.here=delay:inf",
        "test.here=raise:1",
    ],
)
def test_a_typo_stops_the_start(spec: str) -> None:
    with pytest.raises(StartError, match="FEINSCHLIFF_FAILPOINTS"):
        configure(spec)


def test_every_problem_is_told_and_nothing_is_armed() -> None:
    with pytest.raises(StartError) as caught:
        configure("test.here=raise; nope=kill; test.here=explode")
    assert len(caught.value.problems) == 2
    assert hits(1) == [False]


def test_a_place_that_is_not_in_the_table_fails_at_once() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        fail("nowhere")


def test_only_what_is_wanted_is_armed() -> None:
    assert not failpoints.is_armed("test.here")
    failpoints.configure("test.here=raise@2")
    assert failpoints.is_armed("test.here")
    assert not failpoints.is_armed("step.after")
    failpoints.configure("")
    assert not failpoints.is_armed("test.here")
