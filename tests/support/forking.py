"""Run as a script, by `forked.py`: imports a module once, then forks a process for each request, which runs it."""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from importlib.util import find_spec
from typing import NamedTuple

MESSAGE_BYTES_MAX = 200_000


class Request(NamedTuple):
    """What the new process is, and its output, errors and (of its parent alone) the place to say how it ended."""

    told: dict[str, object]
    files: list[int]


def serve(link: socket.socket) -> Request | None:
    """Returns in each child, with its request, and in the parent when nobody is left to ask.

    `link` is a socket of whole messages; the answer to each is the child's number.
    """
    waiting, waking = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking)
    ends: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        selector.register(waiting, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == waiting:
                    os.read(waiting, 4096)
                    _reap(ends)
                    continue
                request = _received(link)
                if request is None:
                    return None
                number = os.fork()
                if number == 0:
                    _leave(link, waiting, waking, *ends.values(), request.files.pop())
                    return request
                *outputs, ends[number] = request.files
                _close(*outputs)
                link.send(str(number).encode())


def _received(link: socket.socket) -> Request | None:
    message, files, _, _ = socket.recv_fds(link, MESSAGE_BYTES_MAX, 3)
    return Request(json.loads(message), files) if message else None


def _reap(ends: dict[int, int]) -> None:
    while ends:
        number, status = os.waitpid(-1, os.WNOHANG)
        if number == 0:
            return
        end = ends.pop(number)
        os.write(end, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(end)


def _leave(link: socket.socket, *files: int) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    link.close()
    _close(*files)


def _close(*files: int) -> None:
    for file in files:
        os.close(file)


def become(request: Request, module: str) -> None:
    """As `python -m module` with the request's arguments, environment and output, in a session of its own."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, *request.files)):
        os.dup2(file, number)
    _close(nothing, *request.files)
    environment, arguments = request.told["environment"], request.told["arguments"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main(module: str, link: int) -> None:
    spec = find_spec(module)
    program = f"{module}.__main__" if spec is not None and spec.submodule_search_locations else module
    importlib.import_module(program)
    del sys.modules[program]  # it runs as __main__, as if nobody had imported it
    gc.freeze()
    request = serve(socket.socket(fileno=link))
    if request is not None:
        become(request, module)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
