"""Runs one command and writes down how it ended; a script for `python -I`, standard library only.

usage: wrapper.py FOLDER LOG_PATH GRACE_SECONDS LOG_BYTES_MAX COMMAND...
       wrapper.py --stand-ready SOCKET COMMAND...

It holds no state but files in FOLDER: `pids.json` once the command runs, `exit.json` when it ended. SIGTERM to this
process goes on to the command's process group, which is killed when the grace is over.

Standing ready, it runs COMMAND, which gets a socket of its own as the last argument and says READY there when it is.
Over SOCKET comes one message, JSON of FOLDER and the rest and two open files, the workload's lock and its log. It
answers TAKEN, and when it is told GO hands message and files on to COMMAND; from then on all is as in the first usage.
Whoever holds the other end of SOCKET is gone before: COMMAND is killed, and this process ends.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from socket import socket

TICK_SECONDS = 1.0
NOT_FOUND = 127
NOT_EXECUTABLE = 126
STAND_READY = "--stand-ready"
READY, TAKEN, GO = b"ready", b"taken", b"go"
MESSAGE_BYTES_MAX = 128 * 1024


class Log(NamedTuple):
    path: str
    bytes_max: int


class Signals(NamedTuple):
    """Where this process hears of signals: a pipe to wait at, and when it was asked to stop."""

    wake: int
    stopping: list[float]


def main(folder: str, log: Log, grace_seconds: float, command: list[str]) -> None:
    signals = listen()
    try:
        child = spawn(command)
    except OSError as failure:
        print(f"cannot run {command[0]}: {failure.strerror}", file=sys.stderr, flush=True)
        code = NOT_FOUND if isinstance(failure, FileNotFoundError) else NOT_EXECUTABLE
        write(folder, "exit.json", {"exit_code": code, "signal": None})
        return
    write(folder, "pids.json", {"wrapper": os.getpid(), "group": child})
    see_to_its_end(child, folder, log, grace_seconds, signals)


def stand_ready(number: int, command: list[str]) -> int:
    """1 where the work never came."""
    import socket

    signals = listen()
    service = socket.socket(fileno=number)
    service.set_inheritable(False)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.set_inheritable(True)
    child = spawn([*command, str(theirs.fileno())])
    theirs.close()
    if wait_for_work(service, ours, child, signals):
        message, files, _, _ = socket.recv_fds(service, MESSAGE_BYTES_MAX, 2)
        if message and not over(child, signals):
            lock, log = files
            os.dup2(log, 1)
            os.dup2(log, 2)
            work = json.loads(message)
            write(work["folder"], "pids.json", {"wrapper": os.getpid(), "group": child})
            if agree(service):
                with contextlib.suppress(OSError):  # it just died; how, is about to be written down
                    socket.send_fds(ours, [message], [lock, log])
                ours.close()
                os.close(log)
                about = Log(work["log_path"], work["log_bytes_max"])
                see_to_its_end(child, work["folder"], about, work["grace_seconds"], signals)
                return 0
    signal_group(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 1


def wait_for_work(service: "socket", ours: "socket", child: int, signals: Signals) -> bool:
    """Until the service says something or is gone, or False where the child is; what the child says is passed on."""
    while not over(child, signals):
        readable = select.select([service.fileno(), ours.fileno(), signals.wake], [], [])[0]
        if signals.wake in readable:
            os.read(signals.wake, 4096)
        elif ours.fileno() in readable:
            word = ours.recv(MESSAGE_BYTES_MAX)
            if not word:
                return False
            service.send(word)
        else:
            return True
    return False


def over(child: int, signals: Signals) -> bool:
    """Whether nobody is to get any work: the child died, which it may tell by `waitpid` again, or we are to stop."""
    return bool(signals.stopping) or os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def agree(service: "socket") -> bool:
    """Whether the service still wants us to do the work; it asks nobody else once it said so."""
    try:
        service.send(TAKEN)
        return service.recv(MESSAGE_BYTES_MAX) == GO
    except OSError:
        return False
    finally:
        service.close()


def listen() -> Signals:
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    stopping: list[float] = []

    def on_terminate(_number: int, _frame: FrameType | None) -> None:
        stopping.append(time.monotonic())

    signal.signal(signal.SIGTERM, on_terminate)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    return Signals(wake_read, stopping)


def spawn(command: list[str]) -> int:
    return os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigmask=[])


def see_to_its_end(child: int, folder: str, log: Log, grace_seconds: float, signals: Signals) -> None:
    status = watch(child, signals, grace_seconds, log)
    signal_group(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    write(folder, "exit.json", {"exit_code": code if code >= 0 else None, "signal": -code if code < 0 else None})


def watch(child: int, signals: Signals, grace_seconds: float, log: Log) -> int:
    """Wait for the child, pass the wish to stop on, kill when the grace is over, keep the log small."""
    told, stopping = False, signals.stopping
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
        if select.select([signals.wake], [], [], min(max(left, 0.05), TICK_SECONDS))[0]:
            os.read(signals.wake, 4096)
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
    if sys.argv[1] == STAND_READY:
        sys.exit(stand_ready(int(sys.argv[2]), sys.argv[3:]))
    main(sys.argv[1], Log(sys.argv[2], int(sys.argv[4])), float(sys.argv[3]), sys.argv[5:])
