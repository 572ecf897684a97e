"""What was made from what, as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import NotFound
from feinschliff.kit.metrics import Metrics
from feinschliff.registry import store
from feinschliff.registry.store import Edge

BASE_OF, TRAINED_ON, PRODUCED = "base_of", "trained_on", "produced"
CONTINUED_AS, COMBINED_INTO, POINTS_TO = "continued_as", "combined_into", "points_to"
DEPTH_DEFAULT, DEPTH_MAX, NODES_MAX = 8, 32, 10_000

KINDS = {  # the collection in a resource's name -> what it is
    "versions": "model_version",
    "trainingJobs": "training_job",
    "aliases": "alias",
    "runs": "eval_run",
    "exports": "export",
    "deployments": "deployment",
}


@dataclass(frozen=True)
class Node:
    name: str
    kind: str
    digest: str = ""
    state: str = ""
    created: datetime | None = None
    missing: bool = False


@dataclass(frozen=True)
class Graph:
    nodes: Sequence[Node]
    edges: Sequence[Edge]
    truncated: bool


class Lineage:
    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics

    def graph(self, name: str, *, up: bool, down: bool, depth: int = 0) -> Graph:
        """Everything within `depth` steps of `name` (0: 8, at most 32), `name` first.

        Raises:
            NotFound: LINEAGE_NOT_FOUND where nothing was made from it and it was made from nothing known.
        """
        seconds = self._metrics.histogram("feinschliff_registry_lineage_seconds")
        with seconds.time(), self._database.reading() as session:
            names, edges, truncated = _walk(
                session, name, up=up, down=down, depth=min(depth or DEPTH_DEFAULT, DEPTH_MAX)
            )
            versions = store.find_versions(session, [one for one in names if kind_of(one) == "model_version"])
        if not edges and name not in versions:
            raise NotFound("LINEAGE_NOT_FOUND", f"Nothing is known of {name}.", name=name)
        digests = {edge.source: edge.digest for edge in edges if edge.digest}
        return Graph([_node(one, versions, digests) for one in names], edges, truncated)


def kind_of(name: str) -> str:
    """What a resource is, from its name alone; a URI is a base model."""
    parts = name.split("/")
    if parts[0] != "projects" or len(parts) < 4:
        return "base_model"
    collection = parts[-2]
    if collection == "versions" and parts[-4] == "datasets":
        return "dataset_version"
    return KINDS.get(collection, collection)


def _walk(session: Session, start: str, *, up: bool, down: bool, depth: int) -> tuple[list[str], list[Edge], bool]:
    """Breadth first; each direction goes on only in its own direction, so siblings do not come in."""
    names, edges = {start: None}, dict[Edge, None]()
    fronts = {"up": [start] if up else [], "down": [start] if down else []}
    for _ in range(depth):
        for way, front in fronts.items():
            found = store.edges_at(session, front, up=way == "up", down=way == "down") if front else []
            beyond = [edge.source if way == "up" else edge.target for edge in found]
            edges |= dict.fromkeys(found)
            fronts[way] = [one for one in dict.fromkeys(beyond) if one not in names]
            names |= dict.fromkeys(fronts[way])
        if len(names) >= NODES_MAX:
            return list(names)[:NODES_MAX], [edge for edge in edges if edge.source in names], True
    return list(names), list(edges), any(fronts.values())


def _node(name: str, versions: dict[str, store.Version], digests: dict[str, str]) -> Node:
    kind = kind_of(name)
    version = versions.get(name)
    if version is not None:
        return Node(name, kind, version.adapter_digest, version.state, version.created)
    return Node(name, kind, digests.get(name, ""), missing=kind == "model_version")
