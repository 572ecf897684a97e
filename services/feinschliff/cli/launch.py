"""Starts a platform in the background and stops it, for commands that outlive neither or both."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from feinschliff.cli.parts import ModulePart
from feinschliff.cli.settings import PlatformSettings
from feinschliff.cli.state import Phase, PlatformState, ProcessRef, forget_state, is_owned, read_state
from feinschliff.cli.supervisor import CLOSE_SECONDS, START_SECONDS_MAX, sweep
from feinschliff.cli.workloads import stop_workloads
from feinschliff.kit.errors import Unavailable

_POLL_SECONDS = 0.05


class Launched(NamedTuple):
    """A platform that is ready, and its supervisor; a tied one lives as long as this is kept."""

    state: PlatformState
    process: subprocess.Popen[bytes]


def start_in_background(
    home: Path,
    environment: Mapping[str, str],
    *,
    is_tied: bool = False,
    told: Callable[[PlatformState], None] = lambda state: None,
) -> Launched:
    """Starts a supervisor in `home` and returns when the platform is ready.

    Args:
        environment: settings that differ from those of this process.
        is_tied: whether the platform ends when this process does.

    Raises:
        Unavailable: PLATFORM_START_FAILED with what the supervisor said.
    """
    part = ModulePart(
        "supervisor", "feinschliff.cli.supervisor", environment, home / "logs" / "supervisor.log", 0, is_tied
    )
    process = part.start()
    deadline = time.monotonic() + START_SECONDS_MAX + CLOSE_SECONDS
    seen: PlatformState | None = None
    while time.monotonic() < deadline:
        ended = process.poll()
        state = read_state(home)
        if state is not None and state.supervisor.pid == process.pid and state != seen:
            seen = state
            told(state)
            if state.phase is Phase.READY:
                return Launched(state, process)
        if ended is not None:
            problem = seen.problem if seen is not None and seen.phase is Phase.FAILED else part.last_words()
            raise Unavailable("PLATFORM_START_FAILED", problem or f"The supervisor ended with {ended}.")
        time.sleep(_POLL_SECONDS)
    _end(process)
    raise Unavailable("PLATFORM_START_FAILED", f"Not ready in time; see {home / 'logs'}.")


def wait_until_ready(home: Path) -> PlatformState | None:
    """The state once a platform that is starting is ready; None where none runs any more."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while is_owned(home) and time.monotonic() < deadline:
        state = read_state(home)
        if state is not None and state.phase is Phase.READY and state.is_running:
            return state
        time.sleep(_POLL_SECONDS)
    return None


def stop_platform(settings: PlatformSettings) -> bool:
    """Stops whatever of the platform runs in this home, and waits until all is gone; False where nothing did.

    Raises:
        Unavailable: PLATFORM_STOP_FAILED where it takes longer than all its parts together may.
    """
    home = settings.home.absolute()
    was_running = is_owned(home)
    seconds_max = settings.drain_seconds + settings.grace_seconds + settings.training_stop_seconds + 4 * CLOSE_SECONDS
    deadline = time.monotonic() + seconds_max
    asked: ProcessRef | None = None
    while is_owned(home) or (asked is not None and asked.find() is not None):
        state = read_state(home)
        supervisor = state.supervisor if state is not None else None
        if supervisor != asked and supervisor is not None and (process := supervisor.find()) is not None:
            asked = supervisor
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        if time.monotonic() > deadline:
            message = f"The platform in {home} did not stop within {seconds_max:g} s; see {home / 'logs'}."
            raise Unavailable("PLATFORM_STOP_FAILED", message, home=home)
        time.sleep(_POLL_SECONDS)
    swept = sweep(settings)
    stopped = stop_workloads(settings)
    forget_state(home)
    return was_running or swept or stopped > 0


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
