"""Stands ready to become a trainer: libraries imported, perhaps a base in memory; `workloads/warm.py` starts it.

usage: python -m feinschliff.trainer.warm [--base URI] SOCKET

It reads settings to find the base and keeps none of them: what it becomes reads those that come with the work.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from feinschliff.kit import imports
from feinschliff.kit.errors import Refusal, StartError
from feinschliff.kit.settings import read_settings
from feinschliff.lm.threads import share_cores
from feinschliff.trainer import __main__ as trainer
from feinschliff.trainer import launch
from feinschliff.trainer.failures import CRASHED
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.workloads.environment import take
from feinschliff.workloads.wrapper import MESSAGE_BYTES_MAX, READY

if TYPE_CHECKING:
    from feinschliff.lm.load import LoadedBase

MODULES = (
    "feinschliff.trainer.attempt",
    "feinschliff.trainer.link",
    "feinschliff.artifacts.connect",
    "peft",
    "tensorboard.compat.proto.summary_pb2",
    "tensorboard.summary.writer.event_file_writer",
)
"""What an attempt imports, much of it only when it comes to it."""


class Work(NamedTuple):
    arguments: Sequence[str]
    env: Mapping[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m feinschliff.trainer.warm", description=__doc__)
    parser.add_argument("--base", default="", help="URI of a base to hold in memory")
    parser.add_argument("socket", type=int, help="number of the socket on which the work comes")
    options = parser.parse_args()
    launch.end_with(os.getppid())
    share_cores()
    with imports.uncollected():
        for module in MODULES:
            importlib.import_module(module)
    try:
        bases = [read_base(options.base)] if options.base else []
    except (StartError, Refusal) as error:
        print(f"{options.base} cannot be held in memory: {error}", file=sys.stderr)
        return CRASHED
    work = wait(socket.socket(fileno=options.socket))
    if work is None:
        return 0
    launch.live_on()
    become(work)
    return trainer.main(work.arguments, bases)


def read_base(uri: str) -> LoadedBase:
    """The base as jobs without a precision of their own want it, read and proven as `preparation.load` does it."""
    from feinschliff.artifacts.bases import resolve
    from feinschliff.artifacts.connect import connect
    from feinschliff.lm.load import load_base
    from feinschliff.trainer.preparation import fit_for_training, use_threads

    settings = read_settings(TrainerSettings)
    use_threads(settings.threads(0))
    files = resolve(uri, connect(settings), settings.cache_folder, offline=settings.offline)
    base = load_base(files, cache_dir=settings.cache_folder)
    fit_for_training(base.model)
    return base


def wait(link: socket.socket) -> Work | None:
    """Say that we are ready; the work, with our output where it belongs, or None where whoever had it is gone.

    The workload's lock stays open, and goes to whatever this process starts, as it would have been inherited.
    """
    with link:
        link.send(READY)
        message, files, _, _ = socket.recv_fds(link, MESSAGE_BYTES_MAX, 2)
    if not message:
        return None
    lock, log = files
    os.set_inheritable(lock, True)
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(log, number)
    os.close(log)
    about = json.loads(message)
    return Work(about["arguments"], about["env"])


def become(work: Work) -> None:
    """The same process in all that a cold start would have given it."""
    take(work.env)
    share_cores()
    sys.argv = [trainer.__file__, *work.arguments]


if __name__ == "__main__":
    sys.exit(main())
