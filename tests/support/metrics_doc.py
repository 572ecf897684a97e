"""Writes docs/metrics.md from the catalogue: `python -m tests.support.metrics_doc > docs/metrics.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from feinschliff.kit.catalogue import ALL, CATALOGUE, MetricSpec

PREFACE = """\
# Metrics

Each service answers Prometheus at `/metrics` on a port of its own; the ports are in [settings.md](settings.md).
Services in one process keep their metrics apart, so a room shows the same names wherever it runs. Beside the families
below every port has the usual `process_*` and `python_*`.

A name ends in its unit where it has one, and in `_total` for a counter. Labels take values from closed sets: no request
or model is ever a label. The one exception is bounded: series of a running job carry its project and its id, exist only
while it runs, and for at most 100 jobs ([why](decisions/0005-a-running-job-is-a-label.md)). Where every copy of a room
shows the same number, that of the whole installation, the help says so: take the highest and do not add up. A histogram
has `_bucket`, `_sum` and `_count`; its bounds, and why they lie where they do, are in
[`kit/catalogue.py`](../services/feinschliff/kit/catalogue.py), which this page is written from. What they are for
is in [`deploy/monitoring`](../deploy/monitoring): dashboards, rules and alerts are built from them, and
[runbook.md](runbook.md) has a page for each alert.
"""
HEAD = ("name", "kind", "labels", "rooms", "help")


def page(catalogue: Mapping[str, MetricSpec] = CATALOGUE) -> str:
    return "\n".join([PREFACE, *rows(catalogue)]) + "\n"


def rows(catalogue: Mapping[str, MetricSpec]) -> Iterator[str]:
    yield f"| {' | '.join(HEAD)} |"
    yield "|---" * len(HEAD) + "|"
    for name, spec in catalogue.items():
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        rooms = "all" if set(spec.rooms) == set(ALL) else ", ".join(spec.rooms)
        help = f"{spec.help} The same from every copy." if spec.shared else spec.help
        yield f"| `{name}` | {spec.kind} | {labels} | {rooms} | {help} |"


if __name__ == "__main__":
    print(page(), end="")
