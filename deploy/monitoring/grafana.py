"""Dashboards in Grafana's words.

Plain dictionaries, and not grafana-foundation-sdk: its releases are numbered so that pip takes the one for Grafana 10.1
whatever is asked for, which writes schema 36, and of its builders this would use one method per line below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from deploy.monitoring.panels import WIDTH, Dashboard, Kind, Panel, Row, Unit, Variable
from deploy.monitoring.scope import for_panels

SCHEMA_VERSION = 42  # Grafana 12; newer ones read it, 10 and 11 do too
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS: Mapping[Unit, str] = {
    "count": "short",
    "per second": "cps",
    "calls/s": "reqps",
    "seconds": "s",
    "bytes": "bytes",
    "bytes/s": "Bps",
    "tokens": "short",
    "tokens/s": "suffix: tokens/s",
    "share": "percentunit",
    "times": "suffix:x",
    "yes/no": "bool_yes_no",
    "nats/token": "suffix: nats/token",
    "joules": "joule",
    "grams": "massg",
    "money": "suffix: \u00a4",
    "money/hour": "suffix: \u00a4/h",
    "number": "none",
}
TYPES: Mapping[Kind, str] = {"lines": "timeseries", "stat": "stat", "table": "table"}
ROOMS_SERIES = "feinschliff_room_offloaded_in_flight"
"""Every room shows it from its first look at its dependencies on."""


def to_json(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.asks,
        "tags": list(dashboard.tags),
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": dashboard.refresh,
        "time": {"from": dashboard.time_from, "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [_siblings()],
        "templating": {"list": list(_variables(dashboard))},
        "panels": list(_laid_out(dashboard.rows)),
    }


def _variables(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1,
        "hide": 0, "includeAll": False, "multi": False, "options": [], "current": {}, "regex": "",
    }  # fmt: skip
    yield _variable(Variable("namespace", "Namespace", ROOMS_SERIES, "namespace", multiple=False), ROOMS_SERIES)
    for variable in dashboard.variables:
        yield _variable(variable, f'{variable.series}{{namespace=~"$namespace"}}')


def _variable(variable: Variable, series: str) -> dict[str, Any]:
    """All stands for any value and none, so that a Prometheus outside a cluster shows its numbers too."""
    values = f"label_values({series}, {variable.values_of})"
    return {
        "name": variable.name, "label": variable.label, "type": "query", "datasource": SOURCE, "definition": values,
        "query": {"query": values, "refId": variable.name, "qryType": 1}, "refresh": 2, "sort": 1, "hide": 0,
        "includeAll": True, "allValue": ".*", "multi": variable.multiple, "options": [], "regex": "",
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }  # fmt: skip


def _laid_out(rows: tuple[Row, ...]) -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for row in rows:
        number += 1
        at = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": at, "panels": []}
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            number += 1
            if left + panel.width > WIDTH:
                top, left, height = top + height, 0, 0
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": panel.height})
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel, number: int, at: dict[str, int]) -> dict[str, Any]:
    note = f" It {panel.silent} to show anything." if panel.silent else ""
    return {
        "id": number,
        "type": TYPES[panel.kind],
        "title": panel.title,
        "description": panel.asks + note,
        "datasource": SOURCE,
        "gridPos": at,
        "targets": [_target(panel, place) for place in range(len(panel.queries))],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        **({"transformations": _TABLE} if panel.kind == "table" else {}),
    }


def _target(panel: Panel, place: int) -> dict[str, Any]:
    query = panel.queries[place]
    target = {
        "refId": chr(ord("A") + place),
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": for_panels(query.expr),
        "legendFormat": query.legend or "__auto",
        "range": panel.kind == "lines",
        "instant": panel.kind != "lines",
    }
    return target | ({"format": "table"} if panel.kind == "table" else {})


def _defaults(panel: Panel) -> dict[str, Any]:
    levels = [{"color": "green", "value": None}, *({"color": one.colour, "value": one.value} for one in panel.levels)]
    defaults: dict[str, Any] = {
        "unit": UNITS[panel.unit],
        "color": {"mode": "thresholds" if panel.levels else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": levels},
    }
    if panel.highest is not None:
        defaults |= {"min": 0, "max": panel.highest}
    if panel.kind == "lines":
        stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        fill = 30 if panel.stacked else 5
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {"lineWidth": 1, "fillOpacity": fill, "showPoints": "auto", "stacking": stacking}
    return defaults


def _options(panel: Panel) -> dict[str, Any]:
    match panel.kind:
        case "lines":
            legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        case "stat":
            reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            return {"reduceOptions": reduced, "colorMode": "value", "graphMode": "area", "textMode": "auto"}
        case "table":
            return {"showHeader": True, "cellHeight": "sm"}


_TABLE = [{"id": "merge", "options": {}}, {"id": "organize", "options": {"excludeByName": {"Time": True}}}]


def _siblings() -> dict[str, Any]:
    return {
        "title": "Feinschliff", "type": "dashboards", "tags": ["feinschliff"], "asDropdown": True,
        "includeVars": True, "keepTime": True, "targetBlank": False, "icon": "external link", "url": "",
    }  # fmt: skip
