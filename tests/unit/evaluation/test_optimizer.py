"""A search that lost its lease leaves the runs to whoever goes on with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from feinschliff.evaluation.life import State
from feinschliff.evaluation.optimization.worker import Optimizer
from feinschliff.kit.errors import Conflict


@pytest.mark.parametrize(("state", "stopped"), [("running", []), ("cancelled", ["run"])])
async def test_only_a_search_that_was_stopped_stops_its_runs(state: str, stopped: list[str]) -> None:
    seen = SimpleNamespace(eval="projects/p/evals/e", state="queued", measured=9, candidates_max=1)
    states = iter(
        [
            SimpleNamespace(optimization=seen),
            SimpleNamespace(optimization=SimpleNamespace(**{**vars(seen), "state": state})),
        ]
    )
    optimizations = Mock(get=lambda name: next(states))
    running = SimpleNamespace(run=SimpleNamespace(name="run", state=State.RUNNING))
    runs = Mock(list=lambda listing: ([running], "", 1))
    rest: list[Any] = [Mock() for _ in range(6)]
    optimizer = Optimizer(Mock(), optimizations, Mock(), runs, *rest[:5], "me")

    async def task(_: object) -> None:
        return None

    def save(*_: object, **__: object) -> None:
        raise Conflict("ROW_CHANGED", "Another was faster.")

    optimizer._task, optimizer._save = task, save  # type: ignore[assignment,method-assign]
    await optimizer.work("projects/p/promptOptimizations/o")
    assert [call.args[0] for call in runs.cancel.call_args_list] == stopped
