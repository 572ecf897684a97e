"""A small program in the trainer's place, ending as its recipe's suffix says: attempt.py STORE_FOLDER DATABASE_URL."""

import errno
import os
import signal
import sys
import time
from pathlib import Path

from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.tasks import result_prefix_of
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.db import Database
from feinschliff.kit.watch import Wake
from feinschliff.trainer.failures import ending_of
from feinschliff.training.attempts import Attempts
from feinschliff.training.consumption import Tariff
from feinschliff.training.store import get_attempt, get_job
from feinschliff.workloads.profiles import local_profiles


def main(folder: str, url: str) -> int:
    store = DirectoryStore(Path(folder))
    with Database(url, "training").reading() as session:
        attempt = get_attempt(session, os.environ["FEINSCHLIFF_ATTEMPT"])
        assert attempt is not None
        job = get_job(session, attempt.job)
    assert job is not None
    deed = job.recipe.suffix.split(",")[min(attempt.number, job.recipe.suffix.count(",") + 1) - 1]
    checkpoint = f"{job.name}/checkpoints/{attempt.number}"
    match deed:
        case "succeed":
            commit(store, f"{job.name}/result", {"adapter": b"weights"}, {}, kind="result")
        case "separate":
            prefixes = {task: result_prefix_of(job.name, task) for task in job.recipe.tasks}
            for task, prefix in prefixes.items():
                commit(store, prefix, {"adapter": task.encode()}, {}, kind="result")
            commit(store, f"{job.name}/result", {"metrics.csv": b""}, {"tasks": dict(prefixes)}, kind="result")
        case "wait":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
            time.sleep(60)
        case "heed":  # saves when the service tells it to pause, and hears no signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            tariff = Tariff(local_profiles(1))
            attempts = Attempts(Database(url, "training"), tariff, clock=SystemClock(), wake=Wake())
            while not attempts.record(attempt.name, os.environ["FEINSCHLIFF_ATTEMPT_TOKEN"], []).pause:
                time.sleep(0.05)
            commit(store, checkpoint, {"adapter": b"sealed"}, {}, kind="checkpoint")
            return 75
        case "advance":
            commit(store, checkpoint, {"adapter": b"some"}, {}, kind="checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory" | "disk":  # an error as the trainer names it
            failure, code = ending_of(MemoryError() if deed == "memory" else OSError(errno.ENOSPC, "full"))
            tariff = Tariff(local_profiles(1))
            attempts = Attempts(Database(url, "training"), tariff, clock=SystemClock(), wake=Wake())
            attempts.finish(attempt.name, os.environ["FEINSCHLIFF_ATTEMPT_TOKEN"], failure)
            return code
        case "die":
            print("no such luck")
            return 1
        case code:
            return int(code)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
