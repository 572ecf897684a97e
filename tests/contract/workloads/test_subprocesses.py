"""What only subprocesses can show: watchers, locks, process ids and files on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import psutil
import pytest

from feinschliff.kit.errors import Unavailable
from feinschliff.workloads.process import SubprocessRunner
from feinschliff.workloads.spec import WorkloadSpec
from feinschliff.workloads.status import Observation, State
from tests.support.grounds import pids
from tests.support.programs import POLITE, STUBBORN, ended, python, says
from tests.support.waiting import eventually


def test_kill_9_from_outside_is_seen_as_signal_9(processes: SubprocessRunner) -> None:
    processes.start(WorkloadSpec("victim", python(POLITE)))
    says(processes, "victim", b"ready")

    os.kill(pids(processes, "victim")["group"], signal.SIGKILL)

    assert ended(processes, "victim") == Observation("victim", State.EXITED, signal=signal.SIGKILL)


def test_without_its_watcher_it_still_runs_and_can_be_stopped(processes: SubprocessRunner) -> None:
    processes.start(WorkloadSpec("lonely", python(STUBBORN), grace_seconds=0.5))
    says(processes, "lonely", b"deaf")
    os.kill(pids(processes, "lonely")["wrapper"], signal.SIGKILL)

    assert processes.observe("lonely").state is State.RUNNING

    def stopped() -> bool:
        processes.stop("lonely")
        return processes.observe("lonely").state is State.EXITED

    eventually(stopped, 30, "the end of the workload without a watcher")
    assert processes.observe("lonely").vanished


def test_watcher_and_workload_killed_together_is_a_vanished_one(processes: SubprocessRunner) -> None:
    processes.start(WorkloadSpec("lost", python(POLITE)))
    says(processes, "lost", b"ready")
    found = pids(processes, "lost")

    os.kill(found["wrapper"], signal.SIGSTOP)
    os.kill(found["group"], signal.SIGKILL)
    os.kill(found["wrapper"], signal.SIGKILL)

    seen = ended(processes, "lost")
    assert (seen.exit_code, seen.signal, seen.vanished) == (None, None, True)


def test_a_process_that_got_a_dead_workloads_id_is_left_alone(processes: SubprocessRunner) -> None:
    processes.start(WorkloadSpec("dead", ("true",)))
    ended(processes, "dead")
    (processes._folder / "dead" / "exit.json").unlink()
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        (processes._folder / "dead" / "pids.json").write_text(
            json.dumps({"wrapper": stranger.pid, "group": stranger.pid})
        )
        eventually(lambda: processes.observe("dead").vanished, 30, "the watcher's end")

        processes.stop("dead")
        processes.forget("dead")

        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_no_zombies_are_left_to_the_starter(processes: SubprocessRunner) -> None:
    for number in range(5):
        processes.start(WorkloadSpec(f"short-{number}", ("true",)))
    for number in range(5):
        ended(processes, f"short-{number}")

    own = psutil.Process()
    eventually(
        lambda: not [child for child in own.children() if child.status() == psutil.STATUS_ZOMBIE], 5, "no zombies"
    )


def test_the_log_is_bounded_and_keeps_its_end(folder: Path) -> None:
    processes = SubprocessRunner(folder, log_bytes_max=100_000)
    shout = "import time\nfor n in range(40):\n  print(('%d ' % n) * 3_000, flush=True); time.sleep(0.1)\nprint('end')"
    processes.start(WorkloadSpec("loud", python(shout)))
    ended(processes, "loud")

    log, before = folder / "loud" / "log", folder / "loud" / "log.1"
    assert log.stat().st_size + before.stat().st_size < 40 * 9_000
    assert before.stat().st_size <= 50_000
    assert processes.logs("loud").endswith(b"end\n")


def test_a_start_that_fails_leaves_the_name_free(processes: SubprocessRunner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(Unavailable) as refused:
        processes.start(WorkloadSpec("unlucky", ("true",), log_path=tmp_path / "file" / "log"))

    assert refused.value.reason == "WORKLOAD_START_FAILED"
    assert processes.observe("unlucky").state is State.NOTHING
    processes.start(WorkloadSpec("unlucky", ("true",)))
    assert ended(processes, "unlucky").exit_code == 0


def test_forgetting_frees_the_disk(processes: SubprocessRunner, folder: Path) -> None:
    processes.start(WorkloadSpec("again", ("sh", "-c", "exit 3")))
    ended(processes, "again")

    processes.forget("again")

    assert list(folder.iterdir()) == []


def test_those_that_lose_a_race_leave_nothing_behind(processes: SubprocessRunner, folder: Path) -> None:
    threads = [
        threading.Thread(target=lambda: SubprocessRunner(folder).start(WorkloadSpec("raced", ("true",))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended(processes, "raced")

    assert [path.name for path in folder.iterdir()] == ["raced"]


def test_the_log_is_written_where_it_is_wanted(processes: SubprocessRunner, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "deep" / "one.log"
    processes.start(WorkloadSpec("talker", ("echo", "out"), log_path=log))
    ended(processes, "talker")

    assert log.read_bytes() == processes.logs("talker") == b"out\n"


def test_a_file_that_is_no_program_exits_126(processes: SubprocessRunner) -> None:
    processes.start(WorkloadSpec("directory", ("/etc",)))

    assert ended(processes, "directory").exit_code == 126
    assert b"cannot run /etc" in processes.logs("directory")


def test_secrets_never_reach_the_disk(processes: SubprocessRunner, folder: Path) -> None:
    processes.start(WorkloadSpec("secret", ("true",), env={"PLAIN": "seen"}, secret_env={"SECRET": "hush-hush"}))
    ended(processes, "secret")

    for path in folder.rglob("*"):
        assert not path.is_file() or b"hush-hush" not in path.read_bytes(), path
