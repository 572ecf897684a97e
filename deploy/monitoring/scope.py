"""Queries are written without saying whose numbers they mean; here they are told: which namespace, project, job."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from feinschliff.kit.catalogue import CATALOGUE

RULES_NAMESPACE = "feinschliff"
"""Stands in the built rules; the chart puts the release's namespace in its place."""
SUFFIXES = ("_bucket", "_sum", "_count")
_SERIES = re.compile(
    r"(?<![\w:\"])(?P<name>(?:feinschliff[_:]|grpc_server_|grpc_client_|process_|kubelet_|DCGM_)[\w:]*)"
    r"(?:\{(?P<inside>[^{}]*)\})?"
)


def for_rules(query: str) -> str:
    """The query as a rule: one namespace, fixed."""
    return _scoped(query, lambda name: [f'namespace="{RULES_NAMESPACE}"'])


def for_panels(query: str) -> str:
    """The query as a panel: the dashboard's variables choose."""
    return _scoped(query, _chosen)


def series_in(query: str) -> set[str]:
    """Names of all series that a query reads."""
    return {match["name"] for match in _SERIES.finditer(query)}


def families_in(query: str) -> set[str]:
    """Names of the catalogue's families that a query reads; a histogram's by its own name."""
    return {family for name in series_in(query) if (family := family_of(name))}


def family_of(series: str) -> str:
    """The family that a series belongs to; empty for a recorded or a foreign one."""
    if series in CATALOGUE:
        return series
    stems = (series.removesuffix(suffix) for suffix in SUFFIXES if series.endswith(suffix))
    return next((stem for stem in stems if stem in CATALOGUE and CATALOGUE[stem].kind == "histogram"), "")


VARIABLE_OF: Mapping[str, str] = {"project": "project", "training_job": "training_job"}
"""Labels that a dashboard lets its reader choose, and the variable that holds the choice."""


def _chosen(name: str) -> Iterator[str]:
    yield 'namespace=~"$namespace"'
    spec = CATALOGUE.get(family_of(name))
    for label in spec.labels if spec else ():
        if label in VARIABLE_OF:
            yield f'{label}=~"${VARIABLE_OF[label]}"'


def _scoped(query: str, matchers: Callable[[str], Iterable[str]]) -> str:
    def with_matchers(match: re.Match[str]) -> str:
        parts = [*matchers(match["name"]), *([match["inside"]] if match["inside"] else [])]
        return f"{match['name']}{{{','.join(parts)}}}"

    return _SERIES.sub(with_matchers, query)
