"""Runs one command and writes down how it ended; a script for `python -I`, standard library only.

usage: wrapper.py FOLDER LOG_PATH GRACE_SECONDS LOG_BYTES_MAX COMMAND...

It holds no state but files in FOLDER: `pids.json` once the command runs, `exit.json` when it ended. SIGTERM to this
process goes on to the command's process group, which is killed when the grace is over.
"""

import json
import os
import select
import shutil
import signal
import sys
import time
from types import FrameType
from typing import NamedTuple

TICK_SECONDS = 1.0
NOT_FOUND = 127
NOT_EXECUTABLE = 126


class Log(NamedTuple):
    path: str
    bytes_max: int


def main(folder: str, log: Log, grace_seconds: float, command: list[str]) -> None:
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    stopping: list[float] = []

    def on_terminate(_number: int, _frame: FrameType | None) -> None:
        stopping.append(time.monotonic())

    signal.signal(signal.SIGTERM, on_terminate)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigmask=[])
    except OSError as failure:
        print(f"cannot run {command[0]}: {failure.strerror}", file=sys.stderr, flush=True)
        code = NOT_FOUND if isinstance(failure, FileNotFoundError) else NOT_EXECUTABLE
        write(folder, "exit.json", {"exit_code": code, "signal": None})
        return
    write(folder, "pids.json", {"wrapper": os.getpid(), "group": child})
    status = watch(child, wake_read, stopping, grace_seconds, log)
    signal_group(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    write(folder, "exit.json", {"exit_code": code if code >= 0 else None, "signal": -code if code < 0 else None})


def watch(child: int, wake: int, stopping: list[float], grace_seconds: float, log: Log) -> int:
    """Wait for the child, pass the wish to stop on, kill when the grace is over, keep the log small."""
    told = False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if stopping and not told:
            signal_group(child, signal.SIGTERM)
            told = True
        left = stopping[0] + grace_seconds - time.monotonic() if stopping else TICK_SECONDS
        if left <= 0:
            signal_group(child, signal.SIGKILL)
        if select.select([wake], [], [], min(max(left, 0.05), TICK_SECONDS))[0]:
            os.read(wake, 4096)
        bound(log)


def signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def bound(log: Log) -> None:
    """Above the bound, keep the log's end in `<log>.1` and start it anew; lines written in between may be lost."""
    try:
        if os.stat(log.path).st_size <= log.bytes_max:
            return
        with open(log.path, "rb") as source, open(log.path + ".1", "wb") as target:
            source.seek(-(log.bytes_max // 2), os.SEEK_END)
            shutil.copyfileobj(source, target)
        os.truncate(log.path, 0)
    except OSError as failure:
        print(f"the log cannot be bounded: {failure}", file=sys.stderr, flush=True)


def write(folder: str, name: str, content: dict[str, int | None]) -> None:
    aside = os.path.join(folder, f".{name}")
    with open(aside, "w", encoding="utf-8") as target:
        json.dump(content, target)
        target.flush()
        os.fsync(target.fileno())
    os.replace(aside, os.path.join(folder, name))


if __name__ == "__main__":
    main(sys.argv[1], Log(sys.argv[2], int(sys.argv[4])), float(sys.argv[3]), sys.argv[5:])
