"""What is written about processes is never mistaken for others, and keys stay their owner's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from feinschliff.cli.keys import s3_keys
from feinschliff.cli.state import (
    Child,
    Phase,
    PlatformState,
    ProcessRef,
    forget_state,
    is_owned,
    owning,
    read_state,
    running_state,
    write_state,
)
from feinschliff.kit.errors import WrongState


def own() -> ProcessRef:
    found = ProcessRef.of(os.getpid())
    assert found is not None
    return found


def state(supervisor: ProcessRef, phase: Phase = Phase.READY) -> PlatformState:
    return PlatformState(
        phase=phase,
        supervisor=supervisor,
        since=datetime(2026, 1, 2, tzinfo=UTC),
        ports={"gateway_port": 8080},
        s3_endpoint="http://127.0.0.1:8333",
        children={"control": Child(process=supervisor, restarts=2)},
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path


def test_what_is_written_is_read_again(home: Path) -> None:
    write_state(home, state(own()))
    assert read_state(home) == state(own())
    assert running_state(home) == state(own())
    forget_state(home)
    assert read_state(home) is None


@pytest.mark.parametrize("content", ["", "{", '{"phase": "ready"}', '{"phase": "dancing"}'])
def test_a_damaged_state_is_none(home: Path, content: str) -> None:
    (home / "run" / "platform.json").write_text(content)
    assert read_state(home) is None


def test_a_reused_process_id_is_not_taken_for_the_process(home: Path) -> None:
    other = ProcessRef(pid=os.getpid(), started=own().started - 60)
    assert own().find() is not None
    assert other.find() is None
    write_state(home, state(other))
    assert running_state(home) is None


def test_a_process_that_ended_is_not_found() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ref = ProcessRef.of(process.pid)
    assert ref is not None
    assert ref.find() is not None
    process.communicate(b"\n")
    assert ref.find() is None
    assert ProcessRef.of(process.pid) is None


def test_a_zombie_does_not_count_as_running() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    ref = ProcessRef.of(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ref is not None
    assert ref.find() is None
    process.wait()


def test_a_start_that_failed_does_not_count_as_running(home: Path) -> None:
    write_state(home, state(own(), Phase.FAILED))
    assert running_state(home) is None


def test_a_home_has_one_owner_at_a_time(tmp_path: Path) -> None:
    assert not is_owned(tmp_path)
    with owning(tmp_path) as is_ours:
        assert is_ours
        assert is_owned(tmp_path)
        with owning(tmp_path) as is_ours_too:
            assert not is_ours_too
    assert not is_owned(tmp_path)


def test_keys_are_made_once_whoever_asks_first(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        pairs = set(pool.map(lambda _: s3_keys(tmp_path), range(16)))
    assert len(pairs) == 1
    assert s3_keys(tmp_path) in pairs
    assert s3_keys(tmp_path / "other") not in pairs


def test_only_the_owner_can_read_the_keys(tmp_path: Path) -> None:
    s3_keys(tmp_path)
    [file] = (tmp_path / "keys").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    with pytest.raises(WrongState) as caught:
        s3_keys(tmp_path)
    assert caught.value.reason == "KEYS_EXPOSED"
    assert str(file) in caught.value.advice[0]


def test_damaged_keys_are_refused_by_their_path(tmp_path: Path) -> None:
    s3_keys(tmp_path)
    [file] = (tmp_path / "keys").iterdir()
    file.write_text('{"access_key": 1}')
    with pytest.raises(WrongState, match=str(file)) as caught:
        s3_keys(tmp_path)
    assert caught.value.reason == "KEYS_UNREADABLE"
