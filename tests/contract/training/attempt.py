"""A small program in the trainer's place, ending as its recipe's suffix says: attempt.py STORE_FOLDER DATABASE_URL."""

import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported where needed: many of these are started, and most deeds need none of it
    from feinschliff.training.attempts import Attempts


def main(folder: str, url: str) -> int:
    name, token = os.environ["FEINSCHLIFF_ATTEMPT"], os.environ["FEINSCHLIFF_ATTEMPT_TOKEN"]
    job, _, number = name.partition("/attempts/")
    recipe = recipe_of(job, url)
    deeds = recipe["suffix"].split(",")
    match deeds[min(int(number), len(deeds)) - 1]:
        case "succeed":
            seal(folder, f"{job}/result", {"adapter": b"weights"}, kind="result")
        case "separate":
            from feinschliff.formats.recipe import Recipe
            from feinschliff.formats.tasks import result_prefix_of

            prefixes = {task: result_prefix_of(job, task) for task in Recipe.model_validate(recipe).tasks}
            for task, prefix in prefixes.items():
                seal(folder, prefix, {"adapter": task.encode()}, kind="result")
            seal(folder, f"{job}/result", {"metrics.csv": b""}, {"tasks": dict(prefixes)}, kind="result")
        case "wait":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
            time.sleep(120)
        case "heed":  # saves when the service tells it to pause, and hears no signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            attempts = attempts_in(url)
            while not attempts.record(name, token, []).pause:
                time.sleep(0.05)
            seal(folder, f"{job}/checkpoints/{number}", {"adapter": b"sealed"}, kind="checkpoint")
            return 75
        case "advance":
            seal(folder, f"{job}/checkpoints/{number}", {"adapter": b"some"}, kind="checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory" | "disk" as deed:  # an error as the trainer names it
            import errno

            from feinschliff.trainer.failures import ending_of

            failure, code = ending_of(MemoryError() if deed == "memory" else OSError(errno.ENOSPC, "full"))
            attempts_in(url).finish(name, token, failure)
            return code
        case "die":
            print("no such luck")
            return 1
        case code:
            return int(code)
    return 0


def recipe_of(job: str, url: str) -> dict[str, Any]:
    """Read by hand: our own way to a database takes most of a second to import."""
    if url.startswith("sqlite:///"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=20)
        [[recipe]] = connection.execute("SELECT recipe FROM training_jobs WHERE name = ?", [job]).fetchall()
        connection.close()
        return dict(json.loads(recipe))
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as server:
        [[found]] = server.execute("SELECT recipe FROM training_jobs WHERE name = %s", [job]).fetchall()
    return dict(found)


def attempts_in(url: str) -> "Attempts":
    from feinschliff.kit.clock import SystemClock
    from feinschliff.kit.db import Database
    from feinschliff.kit.watch import Wake
    from feinschliff.training.attempts import Attempts
    from feinschliff.training.consumption import Tariff
    from feinschliff.workloads.profiles import local_profiles

    return Attempts(Database(url, "training"), Tariff(local_profiles(1)), clock=SystemClock(), wake=Wake())


def seal(
    folder: str, prefix: str, files: Mapping[str, bytes], facts: Mapping[str, Any] | None = None, *, kind: str
) -> None:
    from pathlib import Path

    from feinschliff.artifacts.commit import commit
    from feinschliff.artifacts.directory import DirectoryStore

    commit(DirectoryStore(Path(folder)), prefix, files, facts or {}, kind=kind)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
