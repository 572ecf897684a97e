"""`feinschliff plan`: everything that `train` takes, and what it would do, without starting anything."""

from __future__ import annotations

import inspect
from typing import Any

from feinschliff.cli import train

NOT_OF_A_PLAN = ("job_id", "check", "watch", "plan")


def plan(**said: Any) -> None:
    """Say what `train` with the same options would do: steps, tokens, memory, time, price, and what would go wrong.

    Exit 1 where the job would be refused or would fail.
    """
    train.train(**said, plan=True)


def _signature() -> inspect.Signature:
    """The options of `train` without those that only a job has, so that the two can never differ."""
    whole = inspect.signature(train.train, eval_str=True)
    return whole.replace(parameters=[one for name, one in whole.parameters.items() if name not in NOT_OF_A_PLAN])


plan.__signature__ = _signature()  # type: ignore[attr-defined]
