"""Starts the processes of a job on this machine, lets them begin again together when one dies, and ends as they end.

It is torch's elastic agent in this process, not the script torchrun, which knows no exit code but 0 and 1: here the
processes' own 65 and 75 survive, and so do SIGTERM and its grace.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from feinschliff.formats.report import ExitCode
from feinschliff.formats.runfile import Runfile
from feinschliff.kit import imports
from feinschliff.kit.errors import StartError, Unavailable
from feinschliff.trainer.failures import CRASHED
from feinschliff.trainer.scratch import Scratch
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.trainer.stop import SIGNALS, Stop

logger = logging.getLogger(__name__)

MODULE = "feinschliff.trainer"
LOOPBACK = "lo"
REMINDER_SECONDS = 1.0
PEERS_SECONDS = 600
"""How long the machines of a job wait for each other, at the start and after a loss."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


def is_for_many(runfile: Runfile) -> bool:
    return runfile.recipe.nodes * runfile.recipe.processes_per_node > 1


def launch(runfile: Runfile, arguments: Sequence[str], settings: TrainerSettings, stop: Stop) -> int:
    """Run this machine's processes to their end.

    Args:
        arguments: of this program; the processes get them too.

    Returns:
        What they agreed on: 0, 65, 75 or a crash.

    Raises:
        StartError: several machines, and no word about where they meet.
    """
    from feinschliff.lm.threads import share_cores

    if runfile.recipe.nodes > 1 and not settings.trainer_rendezvous:
        raise StartError(["FEINSCHLIFF_TRAINER_RENDEZVOUS: needed where a job takes more than one machine"])
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # from here on the messenger takes them, also for what we start
    if stop.wish is not None:
        return ExitCode.RESUME_ME
    share_cores()
    scratch = Scratch(f"{runfile.job}/launcher", settings.scratch_folder)
    threading.Thread(target=_pass_on, args=(scratch,), name="messenger", daemon=True).start()
    try:
        return _run_agent(runfile, arguments, settings, scratch.new_folder())
    finally:
        scratch.close()


def _run_agent(runfile: Runfile, arguments: Sequence[str], settings: TrainerSettings, folder: Path) -> int:
    with imports.uncollected():
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    recipe = runfile.recipe
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # each new beginning gets a store that remembers nothing
    meeting = meeting_here(folder) if recipe.nodes == 1 else meeting_at(settings.trainer_rendezvous)
    config = LaunchConfig(
        min_nodes=recipe.nodes,
        max_nodes=recipe.nodes,
        nproc_per_node=recipe.processes_per_node,
        run_id=f"attempt-{runfile.attempt}",
        rdzv_backend="c10d",
        max_restarts=settings.trainer_restarts_max,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        signals_to_handle="SIGQUIT",
        rdzv_endpoint=meeting.endpoint,
        rdzv_configs=dict(meeting.options),
        local_addr=meeting.own_address,
    )
    ours = ["--meeting", str(folder), "--launcher", str(os.getpid())]
    try:
        elastic_launch(config, sys.executable)("-m", MODULE, *arguments, *ours)
    except ChildFailedError as error:
        logger.error("the processes died too often", extra={"why": str(error.failures)})
        return CRASHED
    return agreed(folder, recipe.processes_per_node)


class Meeting(NamedTuple):
    """How the launchers of a job's machines find each other, in the words of torch's rendezvous."""

    endpoint: str
    own_address: str
    options: Mapping[str, object]


def meeting_here(folder: Path) -> Meeting:
    """One machine: a file, and sockets that only this machine can reach."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    return Meeting(str(folder / "rendezvous"), "127.0.0.1", {"store_type": "file"})


def meeting_at(address: str) -> Meeting:
    """Several machines: a port of the first, which an Indexed Job tells each of them whether it is."""
    index = os.environ.get("JOB_COMPLETION_INDEX", "")
    waiting = {"join_timeout": PEERS_SECONDS, "read_timeout": PEERS_SECONDS}
    return Meeting(address, own_address(address), waiting | ({"is_host": index == "0"} if index else {}))


def own_address(peer: str) -> str:
    """The address of this machine in the network in which it reaches `peer` (host:port); waits for the peer's name."""
    host, _, port = peer.rpartition(":")
    deadline = time.monotonic() + PEERS_SECONDS
    while True:
        try:
            family, kind, *_, target = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as probe:
                probe.connect(target)
                return str(probe.getsockname()[0])
        except OSError as error:
            if time.monotonic() > deadline:
                raise Unavailable("PEERS_UNREACHABLE", f"{peer} cannot be reached: {error}") from error
        time.sleep(1.0)


def note_exit(folder: Path, place_here: int, exit_code: int) -> None:
    """Called by a process that ends on its own; the agent only sees whether it did."""
    (folder / f"exit-{place_here}").write_text(str(int(exit_code)))


def agreed(folder: Path, processes: int) -> int:
    """The exit code of a machine's processes: that of the one that has most to say."""
    codes = {int((folder / f"exit-{place}").read_text()) for place in range(processes)}
    for code in (ExitCode.DATA_BAD, *sorted(codes - set(ExitCode)), ExitCode.RESUME_ME):
        if code in codes:
            return code
    return ExitCode.DONE


def end_with(launcher: int) -> None:
    """Be killed when the launcher is, so that no process of a lost attempt trains on; call first of all."""
    _be_sent_at_its_end(signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(CRASHED)


def live_on() -> None:
    """No longer end with whoever started this process."""
    _be_sent_at_its_end(0)


def _be_sent_at_its_end(number: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_DIE_WITH_PARENT, number, 0, 0, 0)


def _pass_on(scratch: Scratch) -> None:
    """Hands SIGTERM and SIGINT to the processes, again and again: some may have started since.

    Where there are none, because other machines are waited for, nothing is to be saved and this process ends.
    """
    import psutil

    signal.sigwait(SIGNALS)
    logger.info("asked to stop")
    without = 0
    while True:
        processes = psutil.Process().children()
        without = 0 if processes else without + 1
        if without > 2:
            scratch.close()
            os._exit(ExitCode.RESUME_ME)
        for process in processes:
            try:
                process.send_signal(signal.SIGTERM)
            except psutil.NoSuchProcess:
                continue
        signal.sigtimedwait(SIGNALS, REMINDER_SECONDS)
