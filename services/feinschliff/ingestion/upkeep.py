"""What runs beside the calls: leases are kept, what dead uploads and removed datasets left is cleared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from feinschliff.ingestion import store as tables
from feinschliff.ingestion.datasets import Datasets
from feinschliff.ingestion.model import State
from feinschliff.ingestion.reservations import Reservations
from feinschliff.kit.db import Database
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import offload


class Upkeep:
    """Two loops; each turn may fail and is then taken up again by the server."""

    def __init__(
        self,
        database: Database,
        datasets: Datasets,
        reservations: Reservations,
        drop_unfinished: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._datasets = datasets
        self._reservations = reservations
        self._drop_unfinished = drop_unfinished
        self._versions = metrics.gauge("feinschliff_ingestion_versions")
        self._seconds = metrics.histogram("feinschliff_ingestion_cleanup_seconds")

    async def renew_every(self, seconds: float) -> None:
        while True:
            await offload(self._reservations.renew)
            await asyncio.sleep(seconds)

    async def clean_every(self, seconds: float) -> None:
        while True:
            await offload(self.clean)
            await asyncio.sleep(seconds)

    def clean(self) -> None:
        with self._seconds.time():
            self._clean()

    def _clean(self) -> None:
        self._reservations.sweep()
        self._datasets.finish_removals()
        self._drop_unfinished()
        with self._database.reading() as session:
            counts = tables.count_by_state(session)
        for state in State:
            self._versions.labels(state.value).set(counts.get(state.value, 0))
