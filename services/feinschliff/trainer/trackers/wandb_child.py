"""The process that holds a run of Weights & Biases: each line of JSON that comes in is answered by one.

First what the run is, then `points` again and again, at last an `ending`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

ORPHAN_SECONDS = 30.0  # how long a run may take to end whose trainer is gone


def main() -> None:
    run: Any = None
    for line in sys.stdin:
        words = json.loads(line)
        try:
            run = follow(run, words)
        except Exception as error:
            kind = "refused" if type(error).__name__ in ("AuthenticationError", "UsageError") else "failed"
            answer({kind: f"{type(error).__name__}: {error}"[:1000]})
            return
        answer({"done": True})
        if "ending" in words:
            return
    threading.Timer(ORPHAN_SECONDS, os._exit, [1]).start()  # a trainer that was killed leaves nothing behind
    if run is not None:
        run.finish(exit_code=1)
    os._exit(0)


def follow(run: Any, words: Mapping[str, Any]) -> Any:
    """Does what a line says and gives back the run."""
    if run is None:
        return begin(words)
    for step, values in words.get("points", ()):
        run.log(values, step=step)
    match words.get("ending"):
        case "finished":
            run.finish(exit_code=0)
        case "interrupted":
            run.mark_preempting()
            run.finish(exit_code=1)
        case str():
            run.finish(exit_code=1)
    return run


def begin(words: Mapping[str, Any]) -> Any:
    """The job's run, gone on with where it is there; a step that is done again keeps its first numbers."""
    import wandb

    settings = wandb.Settings(
        mode=words["mode"],
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        silent=True,
    )
    return wandb.init(
        project=words["project"],
        entity=words["entity"],
        id=words["id"],
        name=words["name"],
        tags=words["tags"],
        config=words["config"],
        resume="allow" if words["mode"] == "online" else None,
        settings=settings,
    )


def answer(words: Mapping[str, Any]) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    main()
