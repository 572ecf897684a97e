"""A small program that stands ready and becomes `python -c`, and workers of it that are turned until they are."""

from __future__ import annotations

import textwrap

from feinschliff.workloads.warm import Kind, WarmWorkers
from tests.support.waiting import eventually

BECOMES_PYTHON = textwrap.dedent(
    """
    import json, os, socket, sys
    from feinschliff.workloads.environment import take
    from feinschliff.workloads.wrapper import MESSAGE_BYTES_MAX, READY

    print("prepared", flush=True)
    link = socket.socket(fileno=int(sys.argv.pop()))
    link.send(READY)
    message, files, _, _ = socket.recv_fds(link, MESSAGE_BYTES_MAX, 2)
    if not message:
        sys.exit()
    link.close()
    os.dup2(files[1], 1), os.dup2(files[1], 2), os.close(files[1])
    work = json.loads(message)
    take(work["env"])
    code, *sys.argv[1:] = work["arguments"]
    exec(code, {"__name__": "__main__"})
    """
)
PYTHON_CODE = Kind(command=("python", "-c"), ready=("python", "-c", BECOMES_PYTHON))


def stand_ready(workers: WarmWorkers, count: int = 1) -> None:
    """Turn until so many are ready."""

    def ready() -> bool:
        workers.turn()
        return workers.ready >= count

    eventually(ready, 120, f"{count} that stand ready")
