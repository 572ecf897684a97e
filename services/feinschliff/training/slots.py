"""How many attempts may run at once, by execution profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from feinschliff.training.store import UnderWay
from feinschliff.workloads.profiles import Profiles


class Slots:
    """The places at one moment; a profile that is gone from the file never lets a job wait: its start fails it."""

    def __init__(self, profiles: Profiles, under_way: Iterable[UnderWay]) -> None:
        self._total = {profile.name: profile.slots for profile in profiles.profiles}
        self._used = Counter(one.profile for one in under_way)

    def is_free(self, profile: str) -> bool:
        return profile not in self._total or self._used[profile] < self._total[profile]

    def by_profile(self) -> list[tuple[str, int, int]]:
        """Name, places and how many are taken, of each profile of the file."""
        return [(name, total, self._used[name]) for name, total in self._total.items()]
