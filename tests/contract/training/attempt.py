"""A small program in the trainer's place, ending as its recipe's suffix says: attempt.py STORE_FOLDER DATABASE_URL."""

import os
import signal
import sys
import time
from pathlib import Path

from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.kit.db import Database
from feinschliff.training.store import get_attempt, get_job


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
        case "wait":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
            time.sleep(60)
        case "advance":
            commit(store, checkpoint, {"adapter": b"some"}, {}, kind="checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        case "die":
            print("no such luck")
            return 1
        case code:
            return int(code)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
