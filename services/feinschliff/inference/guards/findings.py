"""What guards found in one call: told to the caller, to the log and to the metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from feinschliff.inference.guards.guard import Guard, Stage
from feinschliff.kit.errors import Refusal
from feinschliff.kit.metrics import Metrics

logger = logging.getLogger(__name__)


@dataclass
class Finding:
    """Of one guard, over all that it read in a call."""

    guard: Guard
    triggered: bool = False
    scores: dict[str, float] = field(default_factory=dict)
    text: str = ""


class Findings:
    """One finding for each guard that ran, in their order. What was found is noted, never the text it was found in."""

    def __init__(self, guards: Sequence[Guard], deployment: str, metrics: Metrics) -> None:
        self._of = {guard.name: Finding(guard) for guard in guards}
        self._deployment = deployment
        self._metrics = metrics

    def all(self) -> list[Finding]:
        return list(self._of.values())

    def of(self, guard: Guard) -> Finding:
        return self._of[guard.name]

    def note(self, guard: Guard, stage: Stage, rules: Mapping[str, int]) -> None:
        """Each rule that counted is one decision, however often it did."""
        for rule, hits in rules.items():
            self._decided(guard, stage, rule, hits=hits)
            self.of(guard).scores[rule] = 1.0

    def judged(self, guard: Guard, stage: Stage, scores: Mapping[str, float], threshold: float) -> list[str]:
        """Takes what a model says of a text; the labels that trigger."""
        finding = self.of(guard)
        for label, score in scores.items():
            finding.scores[label] = max(score, finding.scores.get(label, 0.0))
        triggering = [label for label, score in scores.items() if score >= threshold]
        for label in triggering:
            self._decided(guard, stage, label, score=round(scores[label], 4))
        return triggering

    def failed(self, guard: Guard, stage: Stage, why: Refusal) -> None:
        self._metrics.counter("feinschliff_inference_guard_failures_total").labels(guard.action.value).inc()
        told = {**self._about(guard, stage), "reason": why.reason, "refusal": why.message}
        logger.warning("guard could not judge", extra=told)

    def _decided(self, guard: Guard, stage: Stage, rule: str, **measures: float) -> None:
        self.of(guard).triggered = True
        labels = (guard.of.kind, guard.action.value, stage.value)
        self._metrics.counter("feinschliff_inference_guard_hits_total").labels(*labels).inc()
        logger.info("guard found something", extra={**self._about(guard, stage), "rule": rule, **measures})

    def _about(self, guard: Guard, stage: Stage) -> dict[str, str]:
        return {
            "deployment": self._deployment,
            "guard": guard.name,
            "guard_kind": guard.of.kind,
            "action": guard.action.value,
            "stage": stage.value,
        }
