"""Trainers that stand ready on this machine: what they are, as the settings want it."""

from __future__ import annotations

from feinschliff.artifacts.bases import hub_name, lies_at
from feinschliff.kit.errors import Refusal, StartError
from feinschliff.kit.settings import ENV_PREFIX
from feinschliff.training.acts import Plan
from feinschliff.training.meters import Meters
from feinschliff.training.settings import TrainingSettings
from feinschliff.workloads.spec import PYTHON
from feinschliff.workloads.warm import Kind, WarmWorkers

MODULE = "feinschliff.trainer.warm"


def warm_workers(settings: TrainingSettings, plan: Plan, meters: Meters) -> WarmWorkers | None:
    """None where none are wanted.

    They are prepared in the environment of the default profile; attempts with a profile of another one start cold.

    Raises:
        StartError: their base cannot be had.
    """
    if not settings.training_warm_workers:
        return None
    base = settings.training_warm_base
    if base:
        refuse_bad_base(base, offline=settings.offline)
    profile = plan.profiles.get("")
    kind = Kind(
        command=plan.command,
        ready=(PYTHON, "-m", MODULE, *(["--base", base] if base else [])),
        env=plan.environment(profile),
        secret_env=plan.secret_env,
    )
    return WarmWorkers(kind, settings.training_warm_workers, told=meters.started, shown=meters.stand_ready)


def refuse_bad_base(uri: str, *, offline: bool) -> None:
    """What can be said of it without the store or the hub; the rest is said by a worker that cannot read it."""
    try:
        if uri.startswith("hf:"):
            hub_name(uri, offline=offline)
        else:
            lies_at(uri)
    except Refusal as refusal:
        raise StartError([f"{ENV_PREFIX}TRAINING_WARM_BASE: {refusal.message}"]) from refusal
