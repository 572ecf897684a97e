"""Ends the trainers that run in a home, so that they save their work and go on at the next start."""

from __future__ import annotations

import logging
import time

from feinschliff.cli.settings import PlatformSettings
from feinschliff.workloads.process import SubprocessRunner
from feinschliff.workloads.status import State

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.1


def stop_workloads(settings: PlatformSettings) -> int:
    """Asks every running one to stop and waits until all are gone, killed after their own grace; how many they were.

    Call it when the training service is down, for that would start them again.
    """
    folder = settings.folder(settings.training_workloads)
    if not folder.exists():
        return 0
    runner = SubprocessRunner(folder)
    names = [one.name for one in runner.list() if one.state is State.RUNNING]
    for name in names:
        log.info("stopping a workload", extra={"workload": name})
    running = names
    while running:
        for name in running:
            runner.stop(name)
        time.sleep(_POLL_SECONDS)
        running = [name for name in running if runner.observe(name).state is State.RUNNING]
    return len(names)
