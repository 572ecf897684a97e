"""A runner whose workloads do what a test says, for what no subprocess can show: waiting, eviction, lost machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from feinschliff.kit.errors import Refusal
from feinschliff.workloads.spec import WorkloadSpec
from feinschliff.workloads.status import Observation, State


class ScriptedRunner:
    """Holds every promise of `Runner` that the reconciler leans on; a test sets what is seen."""

    def __init__(self) -> None:
        self.specs: dict[str, WorkloadSpec] = {}
        self.seen: dict[str, Observation] = {}
        self.stopped: list[str] = []
        self.refusal: Refusal | None = None
        self.lingers = False  # whether what is stopped goes on, as in its grace
        self.said: dict[str, bytes] = {}
        self.logs_read = 0
        self.outage: Refusal | None = None
        self.asked = 0

    def show(self, name: str, **changes: object) -> None:
        """From now on `name` is observed like this."""
        self.seen[name] = replace(self.seen[name], **changes)  # type: ignore[arg-type]

    def start(self, spec: WorkloadSpec) -> None:
        if self.refusal is not None:
            raise self.refusal
        if spec.name not in self.specs:
            self.specs[spec.name] = spec
            self.seen[spec.name] = Observation(spec.name, State.PENDING, labels=dict(spec.labels))

    def observe(self, name: str) -> Observation:
        self.asked += 1
        if self.outage is not None:
            raise self.outage
        return self.seen.get(name, Observation(name, State.NOTHING))

    def stop(self, name: str) -> None:
        if self.observe(name).state in (State.PENDING, State.RUNNING):
            self.stopped.append(name)
            if not self.lingers:
                self.show(name, state=State.EXITED, signal=15)

    def forget(self, name: str) -> None:
        self.seen.pop(name, None)

    def list(self, labels: Mapping[str, str] | None = None) -> Sequence[Observation]:
        wanted = (labels or {}).items()
        return [one for _, one in sorted(self.seen.items()) if wanted <= one.labels.items()]

    def logs(self, name: str, offset: int = 0, limit_bytes: int = 1 << 20) -> bytes:
        self.logs_read += 1
        return self.said.get(name, b"")[offset : offset + limit_bytes]

    def close(self) -> None:
        """Nothing is held."""
