"""What jobs use: machine time, energy, carbon and money, over all their attempts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from feinschliff.formats.base import Stored
from feinschliff.kit.db import Session
from feinschliff.training import store
from feinschliff.training.store import Job
from feinschliff.workloads.profiles import Profiles

SECONDS_PER_HOUR = 3600.0
JOULES_PER_KILOWATT_HOUR = 3.6e6


class Energy(NamedTuple):
    """What an attempt says that it has used so far, and how it knows."""

    joules: float
    source: str


class Used(Stored):
    """As it is kept with the job; absent numbers could not be had.

    Args:
        attempt: the newest attempt that told of its energy, `attempt_joules` what it said last.
    """

    machine_seconds: float = 0.0
    energy_joules: float | None = None
    sources: tuple[str, ...] = ()
    attempt: int = 0
    attempt_joules: float = 0.0
    carbon_grams: float | None = None
    price: float | None = None
    currency: str = ""

    @property
    def energy_source(self) -> str:
        """`rapl+nvml`."""
        return "+".join(self.sources)


@dataclass(frozen=True)
class Tariff:
    """What time and energy cost here.

    Args:
        carbon_grams_per_kilowatt_hour: of the installation's electricity; 0: not known.
    """

    profiles: Profiles
    carbon_grams_per_kilowatt_hour: float = 0.0

    def note(self, session: Session, job: Job, now: datetime, energy: Energy | None = None) -> Job:
        """Keeps with the job what it has used until now, and what its current attempt says of its energy."""
        used = used_by(job) if energy is None else with_energy(used_by(job), job.attempt, energy)
        seconds = store.worked_seconds(session, job.name, now) * job.recipe.nodes
        per_hour = self.profiles.price_per_hour(job.profile)
        changes: dict[str, object] = {"machine_seconds": seconds}
        if per_hour:
            changes |= {"price": seconds / SECONDS_PER_HOUR * per_hour, "currency": self.profiles.currency}
        if used.energy_joules is not None and self.carbon_grams_per_kilowatt_hour:
            changes["carbon_grams"] = self.carbon_grams(used.energy_joules)
        return store.save_job(session, job, consumption=used.model_copy(update=changes).model_dump())

    def carbon_grams(self, joules: float) -> float:
        return joules / JOULES_PER_KILOWATT_HOUR * self.carbon_grams_per_kilowatt_hour


def used_by(job: Job) -> Used:
    return Used.model_validate(job.consumption)


def with_energy(used: Used, attempt: int, energy: Energy) -> Used:
    """After an attempt told what it has used so far; a lower number than before is that of a process begun again."""
    goes_on = attempt == used.attempt and energy.joules >= used.attempt_joules
    total = (used.energy_joules or 0.0) + energy.joules - (used.attempt_joules if goes_on else 0.0)
    sources = (*used.sources, *(one for one in energy.source.split("+") if one not in used.sources))
    return used.model_copy(
        update={"energy_joules": total, "sources": sources, "attempt": attempt, "attempt_joules": energy.joules}
    )
