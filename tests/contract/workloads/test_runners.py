"""What every runner of workloads promises, shown on programs that are really killed."""

from __future__ import annotations

import signal
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from feinschliff.kit.errors import Invalid, WrongState
from feinschliff.workloads.runner import Runner
from feinschliff.workloads.spec import WorkloadSpec
from feinschliff.workloads.status import Observation, State
from tests.support.grounds import Ground
from tests.support.programs import PARENT, POLITE, STUBBORN, ended, python, says
from tests.support.waiting import eventually

IS_OVER = frozenset({State.EXITED, State.NOTHING})


def plain(seen: Observation) -> Observation:
    """Without the time, which not every runner knows."""
    return replace(seen, started=None)


@pytest.mark.parametrize("code", [0, 1, 65, 75, 255])
def test_a_workload_runs_once_and_its_exit_code_is_kept(runner: Runner, code: int) -> None:
    assert runner.observe("one").state is State.NOTHING

    runner.start(WorkloadSpec("one", python(f"print('hello'); raise SystemExit({code})"), labels={"job": "7"}))

    assert plain(ended(runner, "one")) == Observation("one", State.EXITED, exit_code=code, labels={"job": "7"})
    assert runner.logs("one") == b"hello\n"
    assert not runner.observe("one").vanished


def test_it_is_running_until_it_ends(runner: Runner) -> None:
    runner.start(WorkloadSpec("long", python(POLITE)))
    says(runner, "long", b"ready")

    assert plain(runner.observe("long")) == Observation("long", State.RUNNING)
    runner.stop("long")
    assert ended(runner, "long").exit_code == 75


def test_starting_again_changes_nothing_while_it_runs_and_after_it(runner: Runner, tmp_path: Path) -> None:
    mark = ("sh", "-c", f"echo x >> {tmp_path / 'marks'}; echo done")
    runner.start(WorkloadSpec("once", mark))
    runner.start(WorkloadSpec("once", mark))
    ended(runner, "once")
    runner.start(WorkloadSpec("once", mark))

    assert ended(runner, "once").exit_code == 0
    assert (tmp_path / "marks").read_text() == "x\n"


def test_of_many_that_start_it_at_once_one_does(ground: Ground, tmp_path: Path) -> None:
    runners = [ground.open() for _ in range(8)]
    for turn in range(3):
        spec = WorkloadSpec(f"raced-{turn}", ("sh", "-c", f"echo x >> {tmp_path / f'marks-{turn}'}"))
        barrier = threading.Barrier(len(runners))

        def start(own: Runner, spec: WorkloadSpec = spec, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            own.start(spec)
            assert own.observe(spec.name).state is not State.NOTHING
            assert not own.observe(spec.name).vanished

        threads = [threading.Thread(target=start, args=(own,)) for own in runners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert ended(runners[0], spec.name).exit_code == 0
        assert (tmp_path / f"marks-{turn}").read_text() == "x\n"


def test_the_grace_ends_with_a_kill(runner: Runner) -> None:
    runner.start(WorkloadSpec("deaf", python(STUBBORN), grace_seconds=0.5))
    says(runner, "deaf", b"deaf")

    runner.stop("deaf")
    assert runner.observe("deaf").state is State.RUNNING

    assert plain(ended(runner, "deaf")) == Observation("deaf", State.EXITED, signal=signal.SIGKILL)


def test_the_grace_is_kept_when_stop_is_repeated(runner: Runner) -> None:
    slow = "import signal, sys, time\n" + textwrap.dedent(
        """
        def end(*_):
            time.sleep(1)
            print("saved", flush=True)
            sys.exit(75)
        signal.signal(signal.SIGTERM, end)
        print("ready", flush=True)
        while True: time.sleep(1)
        """
    )
    runner.start(WorkloadSpec("slow", python(slow), grace_seconds=10))
    says(runner, "slow", b"ready")

    while runner.observe("slow").state is State.RUNNING:
        runner.stop("slow")

    assert runner.observe("slow").exit_code == 75
    eventually(lambda: runner.logs("slow").endswith(b"saved\n"), 30, "its last words")


def test_stop_takes_its_children_along(runner: Runner) -> None:
    runner.start(WorkloadSpec("family", python(PARENT, STUBBORN), grace_seconds=0.5))
    says(runner, "family", b"deaf")
    child = int(runner.logs("family").split()[1])

    runner.stop("family")
    ended(runner, "family")

    eventually(lambda: is_dead(child), 30, "the end of the child")


def test_children_that_are_left_behind_end_with_it(runner: Runner) -> None:
    leaver = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    runner.start(WorkloadSpec("leaver", python(leaver)))
    ended(runner, "leaver")
    child = int(runner.logs("leaver"))

    eventually(lambda: is_dead(child), 30, "the end of the child")


def is_dead(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_stopping_what_is_gone_or_unknown_is_fine(runner: Runner) -> None:
    runner.stop("unknown")
    runner.start(WorkloadSpec("short", ("true",)))
    ended(runner, "short")
    runner.stop("short")

    assert runner.observe("short").exit_code == 0


def test_stop_right_after_start_ends_it(runner: Runner) -> None:
    for number in range(5):
        runner.start(WorkloadSpec(f"quick-{number}", ("sleep", "600"), grace_seconds=5))
        runner.stop(f"quick-{number}")
    for number in range(5):
        assert ended(runner, f"quick-{number}").signal == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_workload_that_dies_by_a_signal_says_which(runner: Runner, number: signal.Signals) -> None:
    runner.start(
        WorkloadSpec("hit", python("import os, sys; os.kill(os.getpid(), int(sys.argv[1]))", str(int(number))))
    )

    assert plain(ended(runner, "hit")) == Observation("hit", State.EXITED, signal=number)


def test_a_workload_outlives_the_kill_of_its_starter_and_is_adopted(ground: Ground) -> None:
    ground.start_and_die(python(POLITE))

    runner = ground.open()
    says(runner, "orphan", b"ready")
    assert plain(runner.observe("orphan")) == Observation("orphan", State.RUNNING, labels={"job": "1"})
    runner.start(WorkloadSpec("orphan", ("false",)))
    runner.stop("orphan")

    assert ended(runner, "orphan").exit_code == 75


def test_the_end_is_known_when_nobody_watched(ground: Ground) -> None:
    ground.start_and_die(python("print('bye'); raise SystemExit(65)"))

    adopter = ground.open()

    assert ended(adopter, "orphan").exit_code == 65
    assert adopter.logs("orphan") == b"bye\n"


def test_closing_a_runner_leaves_its_workloads_alone(ground: Ground) -> None:
    first = ground.open()
    first.start(WorkloadSpec("long", python(POLITE)))
    says(first, "long", b"ready")
    before = threading.active_count()
    first.close()

    second = ground.open()
    assert second.observe("long").state is State.RUNNING
    second.stop("long")
    assert ended(second, "long").exit_code == 75
    second.close()
    eventually(lambda: threading.active_count() <= before, 30, "the end of the runners' threads")


def test_forgetting_frees_the_name(runner: Runner) -> None:
    runner.start(WorkloadSpec("again", ("sh", "-c", "exit $CODE"), secret_env={"CODE": "3"}))
    assert ended(runner, "again").exit_code == 3

    runner.forget("again")
    runner.forget("again")

    assert runner.observe("again").state is State.NOTHING
    assert runner.list() == []
    assert runner.logs("again") == b""
    runner.start(WorkloadSpec("again", ("sh", "-c", "exit $CODE"), secret_env={"CODE": "4"}))
    assert ended(runner, "again").exit_code == 4


def test_a_running_workload_is_not_forgotten(runner: Runner) -> None:
    runner.start(WorkloadSpec("busy", ("sleep", "600")))

    with pytest.raises(WrongState) as refused:
        runner.forget("busy")

    assert refused.value.reason == "WORKLOAD_RUNNING"
    assert runner.observe("busy").state not in IS_OVER


def test_a_listing_selects_by_all_labels(runner: Runner) -> None:
    name = "projects/default/trainingJobs/a-name-that-is-far-too-long-for-any-label-of-a-cluster-and-has-slashes"
    runner.start(WorkloadSpec("a", ("true",), labels={"room": "training", "job": "1"}))
    runner.start(WorkloadSpec("b", ("sleep", "600"), labels={"room": "training", "job": name}))
    runner.start(WorkloadSpec("c", ("true",)))
    ended(runner, "a")

    assert [seen.name for seen in runner.list()] == ["a", "b", "c"]
    assert [seen.name for seen in runner.list({"room": "training"})] == ["a", "b"]
    assert [seen.labels for seen in runner.list({"room": "training", "job": name})] == [
        {"room": "training", "job": name}
    ]
    assert runner.list({"room": "other"}) == []


def test_the_log_holds_both_outputs_and_is_read_from_an_offset(runner: Runner) -> None:
    runner.start(WorkloadSpec("talker", ("sh", "-c", "echo out; echo err >&2; printf 'ü'")))
    ended(runner, "talker")

    assert runner.logs("talker") == "out\nerr\nü".encode()
    assert runner.logs("talker", offset=4) == "err\nü".encode()
    assert runner.logs("talker", offset=4, limit_bytes=3) == b"err"
    assert runner.logs("talker", offset=1_000) == b""
    assert runner.logs("unknown") == b""


def test_the_log_is_read_while_it_is_written(runner: Runner) -> None:
    runner.start(
        WorkloadSpec("teller", python("import time\nfor n in range(999): print(n, flush=True); time.sleep(.05)"))
    )
    says(runner, "teller", b"3\n")

    first = runner.logs("teller")
    says(runner, "teller", b"9\n")

    assert first + runner.logs("teller", len(first), 3) == runner.logs("teller", 0, len(first) + 3)


def test_a_command_that_does_not_exist_ends_and_says_so(runner: Runner, on_a_cluster: bool) -> None:
    """This machine says it as a shell does, in the log; a cluster never gets to a log."""
    runner.start(WorkloadSpec("missing", ("no-such-program", "x")))

    seen = ended(runner, "missing")

    assert seen.exit_code == (128 if on_a_cluster else 127)
    said = seen.trouble.message if seen.trouble else runner.logs("missing").decode()
    assert "no-such-program" in said


def test_secret_settings_reach_the_workload_and_no_description(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_S3_SECRET_KEY", "of-the-service")
    show = "import os; print(len(os.environ['SECRET']), os.environ['PLAIN'], 'FEINSCHLIFF_S3_SECRET_KEY' in os.environ)"
    spec = WorkloadSpec("secret", python(show), env={"PLAIN": "seen"}, secret_env={"SECRET": "hush-hush"})
    runner.start(spec)

    assert "hush-hush" not in repr(ended(runner, "secret"))
    assert "hush-hush" not in repr(spec)
    assert runner.logs("secret") == b"9 seen False\n"


def test_its_input_is_empty_and_its_signals_are_fresh(runner: Runner) -> None:
    code = "import signal, sys; print(repr(sys.stdin.read()), signal.pthread_sigmask(signal.SIG_BLOCK, []) == set())"
    runner.start(WorkloadSpec("fresh", python(code)))
    ended(runner, "fresh")

    assert runner.logs("fresh") == b"'' True\n"


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", ".a", "a_b", "a" * 64, "-a", "a-"])
def test_names_that_no_cluster_would_take_are_refused(runner: Runner, name: str) -> None:
    with pytest.raises(Invalid) as refused:
        WorkloadSpec(name, ("true",))
    assert refused.value.reason == "WORKLOAD_NAME_INVALID"
    with pytest.raises(Invalid):
        runner.observe(name)


@pytest.mark.parametrize("name", ["0", "a.b", "x" * 63, "9-" + "long-" * 10 + "name"])
def test_any_name_of_a_workload_will_do(runner: Runner, name: str) -> None:
    runner.start(WorkloadSpec(name, ("true",), secret_env={"A": "1"}))

    assert ended(runner, name).name == name
    assert [seen.name for seen in runner.list()] == [name]
