"""One of two processes that meet and try everything that a crew does together; says as JSON what it saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from feinschliff.trainer import processes
from feinschliff.trainer.peers import PeerLost
from feinschliff.trainer.stop import Stop, Stopped, Why


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    crew = processes.join(folder)
    seen: dict[str, Any] = {"place": crew.place, "first": crew.is_first}
    crew.begin_at(7)
    seen["part"] = list(crew.part_of([5, 6, 7], lambda row: row))
    seen["sum"] = crew.sum([1.5, crew.place])
    seen["gradients"] = gradients(crew)
    seen["rounds"] = rounds(crew)
    seen["requests"] = requests(crew)
    seen["stopped"] = stopped(crew)
    seen["verdict"] = verdict(crew)
    print(json.dumps(seen))


def gradients(crew: processes.Processes) -> list[list[float] | None]:
    """One in both processes, one in the second only, one in none, one that does not learn."""
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(3)] + [nn.Parameter(torch.zeros(2), requires_grad=False)]
    weights[0].grad = torch.tensor([1.0, crew.place])
    if not crew.is_first:
        weights[1].grad = torch.tensor([3.0, 4.0])
    processes.BUCKET_BYTES = 8
    crew.sum_gradients(weights)
    return [None if weight.grad is None else weight.grad.tolist() for weight in weights]


def rounds(crew: processes.Processes) -> list[str]:
    """The first has three micro-batches, the other one; meanwhile it idles."""
    done: list[str] = []
    crew.idle = lambda: done.append("idle")
    done.extend(crew.share(["a", "b", "c"] if crew.is_first else ["d"], Stop()))
    crew.idle = None
    return done


def requests(crew: processes.Processes) -> list[bool]:
    """Only the first is asked to save, and both hear of it in the next round, once."""
    stop = Stop()
    if crew.is_first:
        stop.ask_to_save()
    heard = [crew.take_save_request(stop)]
    list(crew.share(["batch"], stop))
    return [*heard, crew.take_save_request(stop), crew.take_save_request(stop)]


def stopped(crew: processes.Processes) -> list[str]:
    """Only the second is asked to stop, in the midst of a step."""
    stop, done = Stop(), []
    try:
        for batch in crew.share(["a", "b", "c"], stop):
            done.append(batch)
            if not crew.is_first and batch == "b":
                stop.ask(Why.PAUSED)
    except Stopped as end:
        done.append(end.why.value)
    return done


def verdict(crew: processes.Processes) -> int | None:
    """The second leaves with 65; the first notices that it is gone, and reads why."""
    if not crew.is_first:
        crew.leave(65)
        return None
    try:
        crew.wait()
    except PeerLost:
        said = crew.verdict()
        crew.leave(65)
        return said
    raise AssertionError("nobody left")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
