"""Dashboards as data: each panel asks a question, in a unit, by queries; how Grafana wants it is `grafana`'s affair."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["lines", "stat", "table"]
Unit = Literal[
    "count", "per second", "calls/s", "seconds", "bytes", "bytes/s", "tokens", "tokens/s", "share", "times", "yes/no",
    "nats/token", "money", "money/hour", "joules", "grams", "number",
]  # fmt: skip
WIDTH = 24  # columns of a Grafana dashboard

NEEDS_GPU = "needs a GPU"
NEEDS_DCGM = "needs a GPU and NVIDIA's DCGM exporter"
NEEDS_KUBELET = "needs the kubelet's metrics of a cluster"
NEEDS_CLUSTER = "needs jobs on a cluster"
NEEDS_TROUBLE = "needs something to go wrong"


class Query(NamedTuple):
    """PromQL without a scope (see `scope`), and what a line is called; `{{label}}` is filled in."""

    expr: str
    legend: str = ""


class Level(NamedTuple):
    """From `value` on, a number is shown in this colour."""

    value: float
    colour: str


@dataclass(frozen=True)
class Panel:
    """One answer on a dashboard.

    Args:
        asks: the question, as a person would ask it; what to look for may follow.
        unit: of every number in it; money is in the currency of the execution profiles.
        silent: why it has no data on one healthy machine without GPU and cluster; empty: it must have some.
        stacked: lines are parts of a whole.
        highest: end of the scale, where it has one.
        levels: colours of its numbers.
    """

    title: str
    asks: str
    unit: Unit
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    width: int = 8
    height: int = 7
    silent: str = ""
    stacked: bool = False
    highest: float | None = None
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True)
class Row:
    """Panels that belong together, under a heading."""

    title: str
    panels: tuple[Panel, ...]


class Variable(NamedTuple):
    """A choice of the reader: the values of a label over the chosen time."""

    name: str
    label: str
    series: str
    values_of: str
    multiple: bool = True


@dataclass(frozen=True)
class Dashboard:
    """One page; `uid` is what links point to, and never changes."""

    uid: str
    title: str
    asks: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()
    time_from: str = "now-6h"
    refresh: str = "30s"
    tags: tuple[str, ...] = field(default=("feinschliff",))

    @property
    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]


PROJECT = Variable("project", "Project", "feinschliff_training_cost_total", "project")
TRAINING_JOB = Variable("training_job", "Job", "feinschliff_training_job_step", "training_job")
