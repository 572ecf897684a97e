"""A model in two words, as the Open Inference Protocol names it: its name, and perhaps its version."""

from __future__ import annotations

from collections.abc import Sequence

from feinschliff.inference.life import Deployment, RouteState
from feinschliff.inference.versions import VERSION
from feinschliff.kit import names
from feinschliff.kit.errors import NotFound

MODEL = VERSION.removesuffix("/versions/{version}")


def named(name: str, version: str, deployments: Sequence[Deployment]) -> str:
    """What `model` of a call would say.

    Args:
        version: of a model its number or `@alias`; of a deployment one of the versions that it serves; or empty.

    Raises:
        NotFound: MODEL_UNKNOWN for a version that what is named does not have.
    """
    if not version:
        return name
    if names.matches(MODEL, name):
        return f"{name}{version}" if version.startswith("@") else f"{name}/versions/{version}"
    if version in versions_of(name, deployments):
        return version
    raise NotFound(
        "MODEL_UNKNOWN",
        f"{name[:200]!r} has no version {version[:200]!r}.",
        advice=["Ask for its metadata, which names its versions, or leave the version out."],
        model=name[:200],
    )


def versions_of(name: str, deployments: Sequence[Deployment]) -> list[str]:
    """The versions that can be named beside a name: of a model those that are served, of a deployment its own."""
    found: dict[str, None] = {}
    for deployment in deployments:
        if not deployment.is_wanted:
            continue
        for status in deployment.status.routes.values():
            if status.state is not RouteState.READY or status.serving is None:
                continue
            model, _, number = status.serving.name.partition("/versions/")
            if deployment.name == name:
                found[status.serving.name] = None
            elif model == name:
                found[number] = None
    return list(found)
