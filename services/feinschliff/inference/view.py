"""The deployments as the last look at the table found them, for requests that cannot wait for one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from feinschliff.inference.life import Deployment


class View:
    """A write that its writer has put here stays seen, whoever refreshes at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deployments: tuple[Deployment, ...] = ()

    def all(self) -> Sequence[Deployment]:
        return self._deployments

    def refresh(self, read: Callable[[], Iterable[Deployment]]) -> Sequence[Deployment]:
        """Takes what `read` finds in the table now."""
        with self._lock:
            self._deployments = tuple(read())
            return self._deployments

    def put(self, deployment: Deployment) -> None:
        """Takes over a write that is committed."""
        with self._lock:
            others = (one for one in self._deployments if one.name != deployment.name)
            self._deployments = (*others, deployment)
