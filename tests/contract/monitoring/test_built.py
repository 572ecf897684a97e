"""What the chart ships is what the code says, and the code leaves nothing out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deploy.monitoring import grafana
from deploy.monitoring.built import all_alerts, all_recorded, files
from deploy.monitoring.dashboards import DASHBOARDS
from deploy.monitoring.panels import Dashboard, Panel
from deploy.monitoring.scope import families_in, for_panels, for_rules, series_in
from feinschliff.graders.grader import GRADERS
from feinschliff.kit.catalogue import CATALOGUE
from tests.support.differences import differences

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "feinschliff"
PANELS = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels]
QUERIES = [query.expr for _, panel in PANELS for query in panel.queries]
UNSHOWN = {  # families that no panel shows, and why
}
FOREIGN = re.compile(r"process_|kubelet_volume_stats_|DCGM_FI_DEV_")

every_panel = pytest.mark.parametrize(
    ("dashboard", "panel"), PANELS, ids=[f"{dashboard.uid}: {panel.title}" for dashboard, panel in PANELS]
)


def test_the_chart_ships_what_the_code_says() -> None:
    built = files()
    shipped = {
        str(path.relative_to(CHART)) for folder in ("dashboards", "rules") for path in (CHART / folder).iterdir()
    }
    assert shipped == set(built), "run `python -m deploy.monitoring`"
    for path, text in built.items():
        found = differences((CHART / path).read_text("utf-8"), text)
        assert not found, f"{path}: run `python -m deploy.monitoring`:\n{found}"


def test_every_metric_is_shown() -> None:
    shown = {family for query in QUERIES for family in families_in(query)}
    behind = {family for one in all_recorded() for family in families_in(one.expr) if one.name in _recorded_that_show()}
    missing = CATALOGUE.keys() - shown - behind - UNSHOWN.keys()
    assert not missing, "no panel shows these; add one, or say in UNSHOWN why not"
    assert not UNSHOWN.keys() & (shown | behind), "shown after all"


def _recorded_that_show() -> set[str]:
    return {name for query in QUERIES for name in series_in(query) if name.startswith("feinschliff:")}


def test_every_metric_is_set_somewhere() -> None:
    sources = (ROOT / "services" / "feinschliff").rglob("*.py")
    text = "\n".join(path.read_text("utf-8") for path in sources if path.name != "catalogue.py")
    unset = {name for name in CATALOGUE if not re.search(rf"\b{name}\b", text)}
    assert not unset, "declared and never set; names stand in full where they are set"


def test_every_grader_is_there_before_its_first_grade() -> None:
    assert CATALOGUE["feinschliff_evaluation_grader_seconds"].starts == tuple(GRADERS)


def test_every_recorded_series_is_read() -> None:
    read = {name for query in QUERIES for name in series_in(query)}
    read |= {name for one in (*all_recorded(), *all_alerts()) for name in series_in(one.expr)}
    assert {one.name for one in all_recorded()} <= read


def test_only_declared_series_are_read() -> None:
    known = {one.name for one in all_recorded()}
    exprs = [*QUERIES, *(one.expr for one in all_recorded()), *(one.expr for one in all_alerts())]
    read = {name for expr in exprs for name in series_in(expr)}
    unknown = {name for name in read - known if not FOREIGN.match(name) and not families_in(name)}
    assert not unknown


def test_what_every_copy_shows_alike_is_never_added_up() -> None:
    """Two copies of a room would double it."""
    shared = {name for name, spec in CATALOGUE.items() if spec.shared}
    exprs = [*QUERIES, *(one.expr for one in all_recorded()), *(one.expr for one in all_alerts())]
    wrong = [expr for expr in exprs for name in shared if re.search(rf"\bsum[^()]*(\([^()]*\) )?\({name}\b", expr)]
    assert not wrong


@every_panel
def test_a_panel_asks_a_question_in_a_unit(dashboard: Dashboard, panel: Panel) -> None:
    assert "?" in panel.asks
    assert panel.asks[0].isupper()
    assert panel.title
    assert panel.unit in grafana.UNITS
    assert panel.queries
    assert panel.width <= 24


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)
def test_a_dashboard_is_one_that_grafana_takes(dashboard: Dashboard) -> None:
    page = json.loads(files()[f"dashboards/{dashboard.uid}.json"])
    assert page["schemaVersion"] >= 42
    assert re.fullmatch(r"feinschliff-[a-z]+", page["uid"])
    assert [one["name"] for one in page["templating"]["list"]][:2] == ["datasource", "namespace"]
    ids = [panel["id"] for panel in page["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in page["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} covers another panel"
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"


def test_titles_are_unique_on_their_page() -> None:
    for dashboard in DASHBOARDS:
        titles = [panel.title for panel in dashboard.panels]
        assert sorted(titles) == sorted(set(titles)), dashboard.uid


@pytest.mark.parametrize("query", sorted(set(QUERIES)))
def test_a_panel_looks_only_at_what_its_reader_chose(query: str) -> None:
    scoped = for_panels(query)
    if "ALERTS" not in query:
        assert scoped.count('namespace=~"$namespace"') >= len(series_in(query)) > 0
    for name in families_in(query):
        if "project" in CATALOGUE[name].labels:
            assert 'project=~"$project"' in scoped


def test_rules_are_about_one_namespace() -> None:
    query = 'rate(grpc_server_handled_total{grpc_code="OK"}[5m]) / feinschliff:room_copies:count'
    assert for_rules(query) == (
        'rate(grpc_server_handled_total{namespace="feinschliff",grpc_code="OK"}[5m])'
        ' / feinschliff:room_copies:count{namespace="feinschliff"}'
    )
