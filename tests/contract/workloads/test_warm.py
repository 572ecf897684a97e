"""A workload that a waiting process becomes is as one that started cold; whoever waits dies alone and is replaced."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from feinschliff.workloads.process import SubprocessRunner
from feinschliff.workloads.spec import WorkloadSpec
from feinschliff.workloads.status import Observation, State
from feinschliff.workloads.warm import Kind, Start, WarmWorkers
from tests.support.grounds import Machine, pids
from tests.support.programs import POLITE, STUBBORN, ended, python, says
from tests.support.waiting import eventually
from tests.support.warm import PYTHON_CODE, stand_ready

SHOW = textwrap.dedent(
    """
    import json, os, signal, sys
    about = {
        "arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd(),
        "leads its group": os.getpgrp() == os.getpid(), "leads its session": os.getsid(0) == os.getpid(),
        "under its watcher": os.getsid(0) == os.getppid(), "blocked": sorted(signal.pthread_sigmask(0, [])),
        "input": sys.stdin.read(), "files": len([1 for name in os.listdir("/proc/self/fd")]),
        "interrupts": str(signal.getsignal(signal.SIGTERM)), "priority": os.nice(0),
    }
    print(json.dumps(about), flush=True)
    print("said aside", file=sys.stderr)
    """
)
Open = Callable[..., tuple[SubprocessRunner, WarmWorkers]]


@pytest.fixture
def starts() -> list[Start]:
    """How workloads were started, in turn."""
    return []


@pytest.fixture
def warm(machine: Machine, starts: list[Start]) -> Iterator[Open]:
    opened: list[SubprocessRunner] = []

    def start(kind: Kind = PYTHON_CODE, count: int = 1) -> tuple[SubprocessRunner, WarmWorkers]:
        workers = WarmWorkers(kind, count, told=starts.append, quiet_seconds=0)
        opened.append(SubprocessRunner(machine.folder, warm=workers))
        return opened[-1], workers

    yield start
    for runner in opened:
        runner.close()


def spec(name: str, code: str, *arguments: str, **more: object) -> WorkloadSpec:
    return WorkloadSpec(name, python(code, *arguments), may_be_warm=True, **more)  # type: ignore[arg-type]


def waiting(workers: WarmWorkers) -> tuple[psutil.Process, psutil.Process]:
    """The watcher and the process of the only one that waits."""
    (worker,) = workers._workers
    watcher = psutil.Process(worker.process.pid)
    (child,) = watcher.children()
    return watcher, child


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_it_finds_what_a_cold_start_finds(warm: Open, starts: list[Start], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    runner, workers = warm()
    wanted = spec("cold", SHOW, "--one", "two words", env={"FEINSCHLIFF_A": "1"}, secret_env={"FEINSCHLIFF_B": "2"})
    runner.start(wanted)
    ended(runner, "cold")
    stand_ready(workers)
    runner.start(replace(wanted, name="warm"))

    assert ended(runner, "warm") == replace(runner.observe("cold"), name="warm")
    shown, aside = runner.logs("warm").splitlines()
    assert json.loads(shown) == json.loads(runner.logs("cold").splitlines()[0])
    assert aside == b"said aside"
    assert json.loads(shown)["environment"]["FEINSCHLIFF_B"] == "2"
    assert starts == ["cold", "warm"]


@pytest.mark.parametrize("code", [0, 65, 75])
def test_its_exit_code_is_kept(warm: Open, code: int) -> None:
    runner, workers = warm()
    stand_ready(workers)
    runner.start(spec("one", f"print('hello'); raise SystemExit({code})", labels={"job": "7"}))

    assert ended(runner, "one") == Observation("one", State.EXITED, exit_code=code, labels={"job": "7"})
    assert runner.logs("one") == b"hello\n"


def test_a_process_is_used_once_and_another_takes_its_place(warm: Open, starts: list[Start]) -> None:
    runner, workers = warm()
    seen = []
    for number in range(3):
        stand_ready(workers)
        seen.append(waiting(workers)[1].pid)
        runner.start(spec(f"job-{number}", "import os; print(os.getpid())"))
        ended(runner, f"job-{number}")

    assert [int(runner.logs(f"job-{number}")) for number in range(3)] == seen
    assert len(set(seen)) == 3
    assert starts == ["warm"] * 3


def test_where_none_is_ready_it_starts_cold(warm: Open, starts: list[Start]) -> None:
    runner, workers = warm()
    runner.start(spec("early", "print('here')"))
    stand_ready(workers)
    runner.start(spec("first", POLITE))
    runner.start(spec("second", "print('here')"))

    assert ended(runner, "early").exit_code == ended(runner, "second").exit_code == 0
    assert starts == ["cold", "warm", "cold"]


@pytest.mark.parametrize(
    "changes",
    [
        {"env": {"GLIBC_TUNABLES": "glibc.malloc.top_pad=1"}},
        {"secret_env": {"PYTHONPATH": "/"}},
        {"may_be_warm": False},
    ],
)
def test_what_cannot_be_changed_after_a_start_makes_it_a_cold_one(
    warm: Open, starts: list[Start], changes: Mapping[str, object]
) -> None:
    runner, workers = warm()
    stand_ready(workers)
    runner.start(replace(spec("other", "print('here')"), **changes))  # type: ignore[arg-type]
    runner.start(spec("same", "print('here')"))

    assert ended(runner, "other").exit_code == ended(runner, "same").exit_code == 0
    assert starts == ["cold", "warm"]


def test_another_program_starts_cold(warm: Open, starts: list[Start]) -> None:
    runner, workers = warm()
    stand_ready(workers)
    runner.start(WorkloadSpec("echo", ("echo", "out"), may_be_warm=True))

    assert ended(runner, "echo").exit_code == 0
    assert starts == ["cold"]


def test_it_is_stopped_within_its_grace(warm: Open) -> None:
    runner, workers = warm(count=2)
    stand_ready(workers, 2)
    runner.start(spec("polite", POLITE, grace_seconds=10))
    runner.start(spec("deaf", STUBBORN, grace_seconds=0.5))
    says(runner, "polite", b"ready")
    says(runner, "deaf", b"deaf")
    runner.stop("polite")
    runner.stop("deaf")

    assert ended(runner, "polite").exit_code == 75
    assert ended(runner, "deaf").signal == signal.SIGKILL


def test_stop_right_after_start_ends_it(warm: Open, starts: list[Start]) -> None:
    runner, workers = warm()
    stand_ready(workers)
    runner.start(spec("quick", "import time; time.sleep(600)", grace_seconds=5))
    runner.stop("quick")

    assert ended(runner, "quick").signal == signal.SIGTERM
    assert starts == ["warm"]


def test_kill_9_from_outside_is_seen_as_signal_9(warm: Open) -> None:
    runner, workers = warm()
    stand_ready(workers)
    runner.start(spec("victim", POLITE))
    says(runner, "victim", b"ready")
    os.kill(pids(runner, "victim")["group"], signal.SIGKILL)

    assert ended(runner, "victim") == Observation("victim", State.EXITED, signal=signal.SIGKILL)


def test_without_its_watcher_it_still_runs(warm: Open) -> None:
    runner, workers = warm()
    stand_ready(workers)
    runner.start(spec("lonely", STUBBORN, grace_seconds=0.5))
    says(runner, "lonely", b"deaf")
    os.kill(pids(runner, "lonely")["wrapper"], signal.SIGKILL)

    assert runner.observe("lonely").state is State.RUNNING

    def stopped() -> bool:
        runner.stop("lonely")
        return runner.observe("lonely").state is State.EXITED

    eventually(stopped, 30, "the end of the workload without a watcher")


@pytest.mark.parametrize("which", ["watcher", "process"])
def test_one_that_is_killed_while_it_waits_is_replaced(warm: Open, starts: list[Start], which: str) -> None:
    runner, workers = warm()
    stand_ready(workers)
    watcher, process = waiting(workers)
    (watcher if which == "watcher" else process).kill()
    eventually(lambda: gone(watcher) and gone(process), 30, "the end of both")
    runner.start(spec("meanwhile", "print('here')"))
    stand_ready(workers)
    runner.start(spec("after", "print('here')"))

    assert ended(runner, "meanwhile").exit_code == ended(runner, "after").exit_code == 0
    assert starts == ["cold", "warm"]


@pytest.mark.parametrize("which", ["watcher", "process"])
def test_one_that_does_not_answer_gets_no_work(
    warm: Open, starts: list[Start], which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watcher that hangs is killed. A process that hangs has the work, as one that hangs after its start has it."""
    monkeypatch.setattr("feinschliff.workloads.warm.ANSWER_SECONDS", 0.3)
    runner, workers = warm()
    stand_ready(workers)
    watcher, process = waiting(workers)
    (watcher if which == "watcher" else process).suspend()
    runner.start(spec("work", "print('here')"))
    if which == "process":
        assert runner.observe("work").state is State.RUNNING
        process.resume()

    assert ended(runner, "work").exit_code == 0
    assert starts == ["cold" if which == "watcher" else "warm"]
    assert pids(runner, "work")["group"] != process.pid or which == "process"
    eventually(lambda: gone(watcher) and gone(process), 30, "the end of both")


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):  # its work was done before
        process.kill()


def test_killed_in_the_midst_of_the_hand_over_the_work_is_begun_once_at_most(
    warm: Open, starts: list[Start], tmp_path: Path
) -> None:
    seed = int(os.environ.get("FEINSCHLIFF_CHAOS_SEED", time.time_ns() % 2**31))
    print(f"seed {seed}")
    dice = random.Random(seed)
    runner, workers = warm()
    done = 0
    for turn in range(20):
        workers._not_before = 0.0
        stand_ready(workers)
        victim = dice.choice(waiting(workers))
        killer = threading.Timer(dice.uniform(0, 0.006), kill, [victim])
        marks = tmp_path / f"marks-{turn}"
        killer.start()
        runner.start(spec(f"work-{turn}", f"import os; os.write(os.open({str(marks)!r}, 1089, 0o600), b'x')"))
        killer.join()
        seen = ended(runner, f"work-{turn}")
        marked = marks.read_text() if marks.exists() else ""
        assert marked == "x" if seen.exit_code == 0 else marked in ("", "x"), seen
        assert seen.exit_code in (0, None), runner.logs(f"work-{turn}")
        done += seen.exit_code == 0
    assert done > 0
    assert len(starts) == 20


def test_one_that_dies_again_and_again_is_prepared_more_and_more_seldom(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    dying = Kind(("python", "-c"), ("python", "-c", "raise SystemExit('no such base')"))
    workers = WarmWorkers(dying, 1, clock=lambda: now[0])

    def is_gone() -> bool:
        workers.turn()
        return not workers._workers

    try:
        for _ in range(4):
            workers.turn()
            assert workers._workers, "it is prepared when the pause is over"
            eventually(is_gone, 30, "its end")
            pause = caplog.records[-1].pause_seconds  # type: ignore[attr-defined]
            now[0] += pause - 0.1
            workers.turn()
            assert not workers._workers
            now[0] += 0.2
    finally:
        workers.close()
    assert [vars(record)["pause_seconds"] for record in caplog.records] == [1, 2, 4, 8]
    assert all("no such base" in vars(record)["said"] for record in caplog.records)


def test_closing_ends_those_that_wait_and_none_that_works(warm: Open) -> None:
    runner, workers = warm()
    stand_ready(workers)
    runner.start(spec("busy", POLITE))
    stand_ready(workers)
    watcher, process = waiting(workers)
    says(runner, "busy", b"ready")
    runner.close()

    eventually(lambda: gone(watcher) and gone(process), 30, "the end of both")
    assert runner.observe("busy").state is State.RUNNING
    workers.turn()
    assert not workers._workers


def test_with_the_service_killed_those_that_wait_end_and_those_that_work_go_on(
    machine: Machine, tmp_path: Path
) -> None:
    """The kill of whoever started them, and of whom they would become the work."""
    code = """
    import os, signal, sys
    from pathlib import Path
    from feinschliff.workloads.process import SubprocessRunner
    from feinschliff.workloads.spec import WorkloadSpec
    from feinschliff.workloads.warm import WarmWorkers
    from tests.support.programs import POLITE, python
    from tests.support.warm import PYTHON_CODE, stand_ready

    workers = WarmWorkers(PYTHON_CODE, 2, quiet_seconds=0)
    runner = SubprocessRunner(Path(sys.argv[1]), warm=workers)
    stand_ready(workers, 2)
    runner.start(WorkloadSpec("orphan", python(POLITE), grace_seconds=5, may_be_warm=True))
    workers.turn()
    print(*(worker.process.pid for worker in workers._workers), flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    service = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(machine.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert service.stdout is not None
    assert service.stdin is not None
    watchers = [psutil.Process(int(number)) for number in service.stdout.readline().split()]
    assert len(watchers) == 2
    both = [*watchers, *(child for one in watchers for child in one.children())]
    service.communicate(b"x")
    assert service.returncode == -signal.SIGKILL

    eventually(lambda: all(gone(process) for process in both), 30, "the end of those that wait")
    runner = machine.open()
    says(runner, "orphan", b"ready")
    assert runner.observe("orphan").state is State.RUNNING
    runner.stop("orphan")
    assert ended(runner, "orphan").exit_code == 75


def test_secrets_reach_it_and_no_disk(warm: Open, machine: Machine) -> None:
    runner, workers = warm()
    stand_ready(workers)
    show = "import os; print(len(os.environ['FEINSCHLIFF_TOKEN']))"
    runner.start(spec("secret", show, secret_env={"FEINSCHLIFF_TOKEN": "hush-hush"}))
    ended(runner, "secret")

    assert runner.logs("secret") == b"9\n"
    for path in machine.folder.rglob("*"):
        assert not path.is_file() or b"hush-hush" not in path.read_bytes(), path
