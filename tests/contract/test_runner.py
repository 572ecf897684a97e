"""What every runner of workloads promises, shown on subprocesses that are really killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from feinschliff.kit.errors import Invalid, Unavailable, WrongState
from feinschliff.workloads.process import SubprocessRunner
from feinschliff.workloads.spec import WorkloadSpec
from feinschliff.workloads.status import Observation, State
from tests.support.programs import PARENT, POLITE, START_AND_DIE, STUBBORN, ended, python, says
from tests.support.waiting import eventually


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "workloads"


@pytest.fixture
def runner(folder: Path) -> Iterator[SubprocessRunner]:
    runner = SubprocessRunner(folder)
    yield runner
    for seen in runner.list():
        if seen.state is State.RUNNING:
            eventually((folder / seen.name / "pids.json").exists, 5, "its pids")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pids(runner, seen.name)["group"], signal.SIGKILL)
            ended(runner, seen.name)


@pytest.mark.parametrize("code", [0, 1, 65, 75, 255])
def test_a_workload_runs_once_and_its_exit_code_is_kept(runner: SubprocessRunner, code: int) -> None:
    assert runner.observe("one").state is State.NOTHING

    runner.start(WorkloadSpec("one", python(f"print('hello'); raise SystemExit({code})"), labels={"job": "7"}))

    assert ended(runner, "one") == Observation("one", State.EXITED, exit_code=code, labels={"job": "7"})
    assert runner.logs("one") == b"hello\n"
    assert not runner.observe("one").vanished


def test_it_is_running_until_it_ends(runner: SubprocessRunner) -> None:
    runner.start(WorkloadSpec("long", python(POLITE)))
    says(runner, "long", b"ready")

    assert runner.observe("long") == Observation("long", State.RUNNING)
    runner.stop("long")
    assert ended(runner, "long").exit_code == 75


def test_starting_again_changes_nothing_while_it_runs_and_after_it(runner: SubprocessRunner, tmp_path: Path) -> None:
    mark = ("sh", "-c", f"echo x >> {tmp_path / 'marks'}; echo done")
    runner.start(WorkloadSpec("once", mark))
    runner.start(WorkloadSpec("once", mark))
    ended(runner, "once")
    runner.start(WorkloadSpec("once", mark))

    assert ended(runner, "once").exit_code == 0
    assert (tmp_path / "marks").read_text() == "x\n"


def test_of_many_that_start_it_at_once_one_does(folder: Path, runner: SubprocessRunner, tmp_path: Path) -> None:
    for turn in range(5):
        spec = WorkloadSpec(f"raced-{turn}", ("sh", "-c", f"echo x >> {tmp_path / f'marks-{turn}'}"))
        barrier = threading.Barrier(8)

        def start(spec: WorkloadSpec = spec, barrier: threading.Barrier = barrier) -> None:
            own = SubprocessRunner(folder)
            barrier.wait()
            own.start(spec)
            assert own.observe(spec.name).state is not State.NOTHING
            assert not own.observe(spec.name).vanished

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert ended(runner, spec.name).exit_code == 0
        assert (tmp_path / f"marks-{turn}").read_text() == "x\n"
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_the_grace_ends_with_a_kill(runner: SubprocessRunner) -> None:
    runner.start(WorkloadSpec("deaf", python(STUBBORN), grace_seconds=0.5))
    says(runner, "deaf", b"deaf")

    runner.stop("deaf")
    assert runner.observe("deaf").state is State.RUNNING

    assert ended(runner, "deaf") == Observation("deaf", State.EXITED, signal=signal.SIGKILL)


def test_the_grace_is_kept_when_stop_is_repeated(runner: SubprocessRunner) -> None:
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
    assert runner.logs("slow").endswith(b"saved\n")


def test_stop_takes_its_children_along(runner: SubprocessRunner) -> None:
    runner.start(WorkloadSpec("family", python(PARENT, STUBBORN), grace_seconds=0.5))
    says(runner, "family", b"deaf")
    child = int(runner.logs("family").split()[1])

    runner.stop("family")
    ended(runner, "family")

    eventually(lambda: not psutil.pid_exists(child) or zombie(child), 5, "the end of the child")


def test_children_that_are_left_behind_end_with_it(runner: SubprocessRunner) -> None:
    leaver = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    runner.start(WorkloadSpec("leaver", python(leaver)))
    ended(runner, "leaver")
    child = int(runner.logs("leaver"))

    eventually(lambda: not psutil.pid_exists(child) or zombie(child), 5, "the end of the child")


def zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_stopping_what_is_gone_or_unknown_is_fine(runner: SubprocessRunner) -> None:
    runner.stop("unknown")
    runner.start(WorkloadSpec("short", ("true",)))
    ended(runner, "short")
    runner.stop("short")

    assert runner.observe("short").exit_code == 0


def test_stop_right_after_start_ends_it(runner: SubprocessRunner) -> None:
    for number in range(5):
        runner.start(WorkloadSpec(f"quick-{number}", ("sleep", "600"), grace_seconds=5))
        runner.stop(f"quick-{number}")
    for number in range(5):
        assert ended(runner, f"quick-{number}").signal == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_workload_that_dies_by_a_signal_says_which(runner: SubprocessRunner, number: signal.Signals) -> None:
    runner.start(
        WorkloadSpec("hit", python("import os, sys; os.kill(os.getpid(), int(sys.argv[1]))", str(int(number))))
    )

    assert ended(runner, "hit") == Observation("hit", State.EXITED, signal=number)


def test_kill_9_from_outside_is_seen_as_signal_9(runner: SubprocessRunner) -> None:
    runner.start(WorkloadSpec("victim", python(POLITE)))
    says(runner, "victim", b"ready")

    os.kill(pids(runner, "victim")["group"], signal.SIGKILL)

    assert ended(runner, "victim") == Observation("victim", State.EXITED, signal=signal.SIGKILL)


def pids(runner: SubprocessRunner, name: str) -> dict[str, int]:
    found: dict[str, int] = json.loads((runner._folder / name / "pids.json").read_bytes())
    return found


def test_a_workload_outlives_the_kill_of_its_starter_and_is_adopted(folder: Path, runner: SubprocessRunner) -> None:
    starter = subprocess.run(
        [sys.executable, "-c", START_AND_DIE, str(folder), *python(POLITE)], check=False, timeout=30
    )
    assert starter.returncode == -signal.SIGKILL

    says(runner, "orphan", b"ready")
    assert runner.observe("orphan") == Observation("orphan", State.RUNNING, labels={"job": "1"})
    runner.start(WorkloadSpec("orphan", ("false",)))
    runner.stop("orphan")

    assert ended(runner, "orphan").exit_code == 75


def test_the_end_is_known_when_nobody_watched(folder: Path) -> None:
    command = [sys.executable, "-c", START_AND_DIE, str(folder), *python("print('bye'); raise SystemExit(65)")]
    subprocess.run(command, check=False, timeout=30)

    adopter = SubprocessRunner(folder)

    assert ended(adopter, "orphan").exit_code == 65
    assert adopter.logs("orphan") == b"bye\n"


def test_without_its_watcher_it_still_runs_and_can_be_stopped(runner: SubprocessRunner) -> None:
    runner.start(WorkloadSpec("lonely", python(STUBBORN), grace_seconds=0.5))
    says(runner, "lonely", b"deaf")
    os.kill(pids(runner, "lonely")["wrapper"], signal.SIGKILL)

    assert runner.observe("lonely").state is State.RUNNING

    def stopped() -> bool:
        runner.stop("lonely")
        return runner.observe("lonely").state is State.EXITED

    eventually(stopped, 10, "the end of the workload without a watcher")
    assert runner.observe("lonely").vanished


def test_watcher_and_workload_killed_together_is_a_vanished_one(runner: SubprocessRunner) -> None:
    runner.start(WorkloadSpec("lost", python(POLITE)))
    says(runner, "lost", b"ready")
    found = pids(runner, "lost")

    os.kill(found["wrapper"], signal.SIGSTOP)
    os.kill(found["group"], signal.SIGKILL)
    os.kill(found["wrapper"], signal.SIGKILL)

    seen = ended(runner, "lost")
    assert (seen.exit_code, seen.signal, seen.vanished) == (None, None, True)


def test_a_process_that_got_a_dead_workloads_id_is_left_alone(runner: SubprocessRunner) -> None:
    runner.start(WorkloadSpec("dead", ("true",)))
    ended(runner, "dead")
    (runner._folder / "dead" / "exit.json").unlink()
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        (runner._folder / "dead" / "pids.json").write_text(json.dumps({"wrapper": stranger.pid, "group": stranger.pid}))
        eventually(lambda: runner.observe("dead").vanished, 5, "the watcher's end")

        runner.stop("dead")
        runner.forget("dead")

        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_no_zombies_are_left_to_the_starter(runner: SubprocessRunner) -> None:
    for number in range(5):
        runner.start(WorkloadSpec(f"short-{number}", ("true",)))
    for number in range(5):
        ended(runner, f"short-{number}")

    own = psutil.Process()
    eventually(
        lambda: not [child for child in own.children() if child.status() == psutil.STATUS_ZOMBIE], 5, "no zombies"
    )


def test_forgetting_frees_the_name_and_the_disk(runner: SubprocessRunner, folder: Path) -> None:
    runner.start(WorkloadSpec("again", ("sh", "-c", "exit 3")))
    ended(runner, "again")

    runner.forget("again")
    runner.forget("again")

    assert runner.observe("again").state is State.NOTHING
    assert list(folder.iterdir()) == []
    runner.start(WorkloadSpec("again", ("sh", "-c", "exit 4")))
    assert ended(runner, "again").exit_code == 4


def test_a_running_workload_is_not_forgotten(runner: SubprocessRunner) -> None:
    runner.start(WorkloadSpec("busy", ("sleep", "600")))

    with pytest.raises(WrongState) as refused:
        runner.forget("busy")

    assert refused.value.reason == "WORKLOAD_RUNNING"
    assert runner.observe("busy").state is State.RUNNING


def test_a_listing_selects_by_all_labels(runner: SubprocessRunner) -> None:
    runner.start(WorkloadSpec("a", ("true",), labels={"room": "training", "job": "1"}))
    runner.start(WorkloadSpec("b", ("sleep", "600"), labels={"room": "training", "job": "2"}))
    runner.start(WorkloadSpec("c", ("true",)))
    ended(runner, "a")

    assert [seen.name for seen in runner.list()] == ["a", "b", "c"]
    assert [seen.name for seen in runner.list({"room": "training"})] == ["a", "b"]
    assert [(seen.name, seen.state) for seen in runner.list({"room": "training", "job": "2"})] == [("b", State.RUNNING)]
    assert runner.list({"room": "other"}) == []


def test_the_log_holds_both_outputs_and_is_read_from_an_offset(runner: SubprocessRunner, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "deep" / "one.log"
    runner.start(WorkloadSpec("talker", ("sh", "-c", "echo out; echo err >&2; printf 'ü'"), log_path=log))
    ended(runner, "talker")

    assert log.read_bytes() == runner.logs("talker") == "out\nerr\nü".encode()
    assert runner.logs("talker", offset=4) == "err\nü".encode()
    assert runner.logs("talker", offset=4, limit_bytes=3) == b"err"
    assert runner.logs("talker", offset=1_000) == b""
    assert runner.logs("unknown") == b""


def test_the_log_is_bounded_and_keeps_its_end(folder: Path) -> None:
    runner = SubprocessRunner(folder, log_bytes_max=100_000)
    shout = "import time\nfor n in range(40):\n  print(('%d ' % n) * 3_000, flush=True); time.sleep(0.1)\nprint('end')"
    runner.start(WorkloadSpec("loud", python(shout)))
    ended(runner, "loud")

    log, before = folder / "loud" / "log", folder / "loud" / "log.1"
    assert log.stat().st_size + before.stat().st_size < 40 * 9_000
    assert before.stat().st_size <= 50_000
    assert runner.logs("loud").endswith(b"end\n")


def test_a_command_that_does_not_exist_exits_127_and_says_so(runner: SubprocessRunner) -> None:
    runner.start(WorkloadSpec("missing", ("no-such-program", "x")))
    runner.start(WorkloadSpec("directory", ("/etc",)))

    assert ended(runner, "missing").exit_code == 127
    assert ended(runner, "directory").exit_code == 126
    assert b"cannot run no-such-program" in runner.logs("missing")


def test_secrets_reach_the_workload_and_never_the_disk(
    runner: SubprocessRunner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEINSCHLIFF_S3_SECRET_KEY", "of-the-service")
    show = "import os; print(len(os.environ['SECRET']), os.environ['PLAIN'], 'FEINSCHLIFF_S3_SECRET_KEY' in os.environ)"
    spec = WorkloadSpec("secret", python(show), env={"PLAIN": "seen"}, secret_env={"SECRET": "hush-hush"})
    runner.start(spec)
    ended(runner, "secret")

    assert runner.logs("secret") == b"9 seen False\n"
    assert "hush-hush" not in repr(spec)
    for path in folder.rglob("*"):
        assert not path.is_file() or b"hush-hush" not in path.read_bytes(), path


def test_its_input_is_empty_and_its_signals_are_fresh(runner: SubprocessRunner) -> None:
    code = "import signal, sys; print(repr(sys.stdin.read()), signal.pthread_sigmask(signal.SIG_BLOCK, []) == set())"
    runner.start(WorkloadSpec("fresh", python(code)))
    ended(runner, "fresh")

    assert runner.logs("fresh") == b"'' True\n"


def test_a_start_that_fails_leaves_the_name_free(runner: SubprocessRunner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(Unavailable) as refused:
        runner.start(WorkloadSpec("unlucky", ("true",), log_path=tmp_path / "file" / "log"))

    assert refused.value.reason == "WORKLOAD_START_FAILED"
    assert runner.observe("unlucky").state is State.NOTHING
    runner.start(WorkloadSpec("unlucky", ("true",)))
    assert ended(runner, "unlucky").exit_code == 0


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", ".a", "a_b", "a" * 64, "-a", "a-"])
def test_names_that_no_cluster_would_take_are_refused(runner: SubprocessRunner, name: str) -> None:
    with pytest.raises(Invalid) as refused:
        WorkloadSpec(name, ("true",))
    assert refused.value.reason == "WORKLOAD_NAME_INVALID"
    with pytest.raises(Invalid):
        runner.observe(name)
