"""How a trainer waits, stops and ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from feinschliff.kit.errors import Invalid, Unavailable
from feinschliff.trainer.__main__ import main
from feinschliff.trainer.patience import patiently
from feinschliff.trainer.scratch import Scratch
from feinschliff.trainer.stop import Stop, Stopped, Why


def down() -> Unavailable:
    return Unavailable("STORE_UNAVAILABLE", "down")


def test_an_outage_is_waited_out() -> None:
    answers = [down(), down(), None]

    def act() -> str:
        if refusal := answers.pop(0):
            raise refusal
        return "done"

    assert patiently(act, Stop(), give_up_seconds=10) == "done"


def test_waiting_ends_when_asked_to_stop() -> None:
    stop = Stop()
    stop.ask(Why.SIGNAL)

    def act() -> None:
        raise down()

    with pytest.raises(Stopped):
        patiently(act, stop)


def test_waiting_ends_at_its_limit_with_what_was_wrong() -> None:
    def act() -> None:
        raise down()

    with pytest.raises(Unavailable):
        patiently(act, Stop(), give_up_seconds=0.1)


def test_what_waiting_cannot_help_passes_at_once() -> None:
    def act() -> None:
        raise Invalid("X", "never")

    with pytest.raises(Invalid):
        patiently(act, Stop())


def test_the_first_wish_to_stop_stays() -> None:
    stop = Stop()
    stop.check()
    stop.ask(Why.CANCELLED)
    stop.ask(Why.SIGNAL)

    with pytest.raises(Stopped) as stopped:
        stop.check()
    assert stopped.value.why is Why.CANCELLED


def test_a_signal_is_a_wish_to_stop() -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop = Stop()
    try:
        stop.on_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_leftovers_of_a_killed_attempt_go_when_the_next_begins(tmp_path: Path) -> None:
    killed, other = Scratch("job-1", tmp_path), Scratch("job-2", tmp_path)
    (killed.new_folder() / "file").write_text("x")

    again = Scratch("job-1", tmp_path)

    assert len(list(tmp_path.iterdir())) == 2
    for scratch in (again, other):
        scratch.close()
    assert not list(tmp_path.iterdir())


def test_what_is_tried_again_and_again_does_not_pile_up(tmp_path: Path) -> None:
    scratch = Scratch("job-1", tmp_path)

    def act() -> None:
        with scratch.folder() as folder:
            (folder / "weights").write_text("x")
            raise down()

    with pytest.raises(Unavailable):
        patiently(act, Stop(), give_up_seconds=0.1)
    assert not list(tmp_path.glob("*/*"))


def test_a_start_without_work_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert main([]) == 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    assert "FEINSCHLIFF_ATTEMPT" in capsys.readouterr().err
