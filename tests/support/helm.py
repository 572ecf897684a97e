"""The chart as the real helm renders it; each set of values once per process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.tools import tool

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "feinschliff"
SETS = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
RELEASE, NAMESPACE = "check", "platform"
_SECONDS = 60
Manifest = dict[str, Any]


class HelmRefused(Exception):
    """What helm said on stderr."""


def helm(*arguments: str, stdin: str | None = None, program: str = "helm") -> str:
    """Runs it; nothing of the user's own configuration is read.

    Raises:
        HelmRefused: it ended with another code than 0.
    """
    command = [str(tool(program)), *arguments]
    environment = {"HOME": "/nonexistent", "PATH": "/usr/bin:/bin", "HELM_CACHE_HOME": "/nonexistent"}
    done = subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        raise HelmRefused(done.stderr)
    return done.stdout


def render(values: Mapping[str, Any] | None = None, *, name: str = "", options: tuple[str, ...] = ()) -> list[Manifest]:
    """The manifests of a set in ci/, of `values`, or of both."""
    return [*_rendered(name, json.dumps(values or {}), options)]


def template(values: Mapping[str, Any] | None = None, *, name: str = "", options: tuple[str, ...] = ()) -> str:
    """The same as helm prints it."""
    return _template(name, json.dumps(values or {}), options)


@lru_cache(maxsize=128)
def _template(name: str, values: str, options: tuple[str, ...]) -> str:
    files = ("--values", str(SETS[name])) if name else ()
    return helm(
        "template", RELEASE, str(CHART), "--namespace", NAMESPACE, *files, "--values", "-", *options, stdin=values
    )


@lru_cache(maxsize=128)
def _rendered(name: str, values: str, options: tuple[str, ...]) -> tuple[Manifest, ...]:
    return tuple(parse(_template(name, values, options)))


def parse(text: str) -> list[Manifest]:
    """The manifests of a text; by the C library where there is one, for it is ten times as fast."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [one for one in yaml.load_all(text, loader) if one]


def find(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The only one of its kind whose name ends so."""
    found = [one for one in manifests if one["kind"] == kind and one["metadata"]["name"].endswith(name)]
    assert len(found) == 1, f"{len(found)} of kind {kind} named ...{name}"
    return found[0]
