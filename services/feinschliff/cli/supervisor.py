"""The process that keeps a platform running on one machine, from the first port to the last: `python -m ...`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

from feinschliff.cli import readiness
from feinschliff.cli.embedded_s3 import stop_s3
from feinschliff.cli.keeper import Keeper
from feinschliff.cli.keys import S3Keys, s3_keys
from feinschliff.cli.parts import ModulePart, Part, S3Part, why
from feinschliff.cli.ports import check_free
from feinschliff.cli.settings import PlatformSettings, platform_settings, variable, with_free_ports
from feinschliff.cli.state import Phase, PlatformState, ProcessRef, owning, read_state, write_state
from feinschliff.cli.workloads import stop_workloads
from feinschliff.kit import logs
from feinschliff.kit.errors import Refusal, StartError, Unavailable, WrongState

log = logging.getLogger(__name__)

START_SECONDS_MAX = 120.0
START_TRIES_MAX = 4  # a part that ended this often before all were ready ends the start
CLOSE_SECONDS = 10.0  # beyond drain and grace, for adapters to close
_LEFTOVER_SECONDS_MAX = 30.0
_POLL_SECONDS = 0.1


class Supervisor:
    """One run of the platform; `run` returns when it is stopped and all of it is gone."""

    def __init__(self, settings: PlatformSettings, told: Callable[[PlatformState], None] = lambda state: None) -> None:
        self._settings = settings
        self._home = settings.home.absolute()
        self._told = told
        self._since = datetime.now(UTC)
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._phase = Phase.STARTING
        self._keepers: Sequence[Keeper] = ()

    def stop(self) -> None:
        """Asks for the end; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Starts all, keeps all running until `stop`, ends all in order.

        Raises:
            WrongState: PLATFORM_RUNNING, PORT_TAKEN, KEYS_EXPOSED, or what a part says about its start.
            Unavailable: PLATFORM_START_FAILED.
        """
        with owning(self._home) as is_ours:
            if not is_ours:
                raise WrongState("PLATFORM_RUNNING", f"A platform runs in {self._home} already.", home=self._home)
            sweep(self._settings)
            self._show(Phase.STARTING)
            try:
                self._start()
                self._wait_until_ready()
                if not self._stop.is_set():
                    self._show(Phase.READY)
                self._stop.wait()
            except Refusal as refusal:
                self._end()
                self._show(Phase.FAILED, why(refusal))
                raise
            except BaseException:
                self._end()
                raise
            self._end()

    def _start(self) -> None:
        check_free(self._settings)
        keys = _keys(self._settings)
        self._keepers = [Keeper(part, self._refresh) for part in parts(self._settings, keys)]
        for keeper in self._keepers:
            keeper.start()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._stop.wait(_POLL_SECONDS):
            for keeper in self._keepers:
                if keeper.is_hopeless or keeper.restarts >= START_TRIES_MAX:
                    raise WrongState("PLATFORM_START_FAILED", keeper.problem, part=keeper.name)
            seen = readiness.look(self._settings)
            if readiness.is_ready(seen):
                return
            if time.monotonic() > deadline:
                waiting = ", ".join(f"{room} is {answer}" for room, answer in seen.items() if answer != "SERVING")
                message = f"Not ready after {START_SECONDS_MAX:g} s: {waiting}. See {self._home / 'logs'}."
                raise Unavailable("PLATFORM_START_FAILED", message)

    def _end(self) -> None:
        """Services first, then what they started, then what all of them store in."""
        self._show(Phase.STOPPING)
        services = [keeper for keeper in self._keepers if keeper.name != S3Part.name]
        threads = [threading.Thread(target=keeper.stop, name=f"stop-{keeper.name}") for keeper in services]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stop_workloads(self._settings)
        for keeper in self._keepers:
            keeper.stop()

    def _refresh(self) -> None:
        self._show(self._phase)

    def _show(self, phase: Phase, problem: str = "") -> None:
        supervisor = ProcessRef.of(os.getpid())
        assert supervisor is not None
        with self._writing:
            self._phase = phase
            state = PlatformState(
                phase=phase,
                supervisor=supervisor,
                since=self._since,
                ports=self._settings.ports(),
                s3_endpoint=self._settings.s3_endpoint,
                children={keeper.name: keeper.child() for keeper in self._keepers},
                problem=problem,
            )
            write_state(self._home, state)
        log.info("platform", extra={"phase": str(phase), "problem": problem})
        self._told(state)


def parts(settings: PlatformSettings, keys: S3Keys) -> Sequence[Part]:
    """What a platform consists of, in the order of the start."""
    home = settings.home.absolute()
    environment = environment_of(settings, keys)
    stop_seconds = settings.drain_seconds + settings.grace_seconds + CLOSE_SECONDS
    modules = {"control": "feinschliff.cli.control", "inference": "feinschliff.inference"}
    services = [
        ModulePart(name, module, environment, home / "logs" / f"{name}.log", stop_seconds)
        for name, module in modules.items()
    ]
    if not settings.has_embedded_s3:
        return services
    return [S3Part(home / "s3", settings.s3_port, keys, settings.s3_bucket), *services]


def environment_of(settings: PlatformSettings, keys: S3Keys) -> dict[str, str]:
    """What a service needs to find its home and the others; all else it reads from the same environment as we did."""
    named = ["s3_endpoint", "drain_seconds", "check_seconds", *settings.ports()]
    named += [name for name in type(settings).model_fields if name.endswith("_address")]
    return {
        variable("home"): str(settings.home.absolute()),
        variable("s3_access_key"): keys.access_key,
        variable("s3_secret_key"): keys.secret_key,
        **{variable(name): str(getattr(settings, name)) for name in named},
    }


def sweep(settings: PlatformSettings) -> bool:
    """Ends what a supervisor left behind that died without a goodbye; whether there was anything.

    Trainers go on: the next training service finds them.
    """
    home = settings.home.absolute()
    state = read_state(home)
    children = state.children.values() if state is not None else ()
    left = [found for child in children if child.process is not None and (found := child.process.find()) is not None]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(left, _LEFTOVER_SECONDS_MAX)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    stop_s3(home / "s3")
    return bool(left)


def _keys(settings: PlatformSettings) -> S3Keys:
    if settings.s3_access_key:
        return S3Keys(settings.s3_access_key, settings.s3_secret_key.get_secret_value())
    return s3_keys(settings.home.absolute())


def main() -> NoReturn:
    try:
        settings = with_free_ports(platform_settings())
        open_log(settings)
        supervisor = Supervisor(settings)
        stop_on_signals(supervisor)
        supervisor.run()
    except StartError as error:
        print("\n".join(error.problems), file=sys.stderr)
        sys.exit(StartError.exit_code)
    except Refusal as refusal:
        print(why(refusal), file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def open_log(settings: PlatformSettings) -> Path:
    """Sends our log lines to `logs/supervisor.log`."""
    path = settings.home.absolute() / "logs" / "supervisor.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    logs.configure(settings.log_level, settings.log_format, stream=path.open("a", encoding="utf-8", buffering=1))
    return path


def stop_on_signals(supervisor: Supervisor) -> None:
    def on_signal(_number: int, _frame: FrameType | None) -> None:
        supervisor.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


if __name__ == "__main__":
    main()
