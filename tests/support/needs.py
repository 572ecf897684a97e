"""What the programs of an image import, and what its extras install: both read, nothing run."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import grimp
from packaging.requirements import Requirement

from tests.support.images import ROOT, extras

PROGRAMS = {
    "control": (
        "feinschliff.cli.control",
        "feinschliff.cli.migrate",
        "feinschliff.ingestion.__main__",
        "feinschliff.training.__main__",
        "feinschliff.evaluation.__main__",
        "feinschliff.registry.__main__",
        "feinschliff.gateway.__main__",
        "feinschliff.sandbox.__main__",
        "feinschliff.sandbox.mother",
    ),
    "trainer": ("feinschliff.trainer.__main__",),
    "inference": ("feinschliff.inference.__main__",),
}


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def reached(target: str) -> frozenset[str]:
    """Every module that a program of the image imports, at once or later: ours by full name, others by their top."""
    graph = _graph()
    return frozenset(PROGRAMS[target]).union(*(graph.find_upstream_modules(name) for name in PROGRAMS[target]))


def direct(target: str) -> frozenset[str]:
    """Distributions that the project asks for by name for this image."""
    return frozenset(normal(one.name) for one in _requirements(target))


def closure(target: str) -> frozenset[str]:
    """Those, and all that they need on this machine."""
    found: set[tuple[str, frozenset[str]]] = set()
    names: set[str] = set()
    waiting = _requirements(target)
    while waiting:
        one = waiting.pop()
        step = (normal(one.name), frozenset(one.extras))
        if step in found:
            continue
        found.add(step)
        names.add(step[0])
        waiting += _needed(distribution(one.name).requires or (), one.extras)
    return frozenset(names)


def lay_out(names: Iterable[str], folder: Path) -> None:
    """A folder of packages with these distributions of this machine and no other, by links."""
    owners = packages_distributions()
    for name in names:
        found = distribution(name)
        tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            _link(Path(str(found.locate_file(top))), folder / top, is_shared=len(set(owners.get(top, ()))) > 1)


def _link(source: Path, target: Path, *, is_shared: bool) -> None:
    """What several distributions share, such as `google`, is merged file by file."""
    if not is_shared:
        target.symlink_to(source)
        return
    for path in source.rglob("*"):
        if path.is_file():
            linked = target / path.relative_to(source)
            linked.parent.mkdir(parents=True, exist_ok=True)
            if not linked.exists():
                linked.symlink_to(path)


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("feinschliff", include_external_packages=True, cache_dir=None)


def _requirements(target: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    chosen = [one for extra in extras(target) for one in project["optional-dependencies"][extra]]
    return [Requirement(one) for one in (*project["dependencies"], *chosen)]


def _needed(requires: Iterable[str], chosen: Iterable[str]) -> list[Requirement]:
    parsed = [Requirement(one) for one in requires]
    environments = [{"extra": extra} for extra in ("", *chosen)]
    return [one for one in parsed if one.marker is None or any(one.marker.evaluate(where) for where in environments)]
