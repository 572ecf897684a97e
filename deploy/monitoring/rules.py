"""Rules as data: what Prometheus records, and what it tells people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Recorded:
    """A number that is kept because it is asked for often, or over long times.

    Args:
        silent: why it has no data on one healthy machine; empty: it must have some.
    """

    name: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)
    silent: str = ""


@dataclass(frozen=True)
class Alert:
    """Something that a person has to know: `critical` now, `warning` today.

    Args:
        lasting: how long it must hold before anybody is told.
        says: one line, filled in by Prometheus.
        means: what users feel; the same for every instance of the alert.
        silent: why a series that it reads is missing on one healthy machine; empty: all must be there.
    """

    name: str
    expr: str
    lasting: str
    severity: Severity
    says: str
    means: str
    silent: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Rules that are looked at one after the other."""

    name: str
    rules: tuple[Recorded | Alert, ...]

    @property
    def recorded(self) -> list[Recorded]:
        return [rule for rule in self.rules if isinstance(rule, Recorded)]

    @property
    def alerts(self) -> list[Alert]:
        return [rule for rule in self.rules if isinstance(rule, Alert)]
