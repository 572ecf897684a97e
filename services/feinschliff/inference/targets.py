"""What could answer a `model`, by the deployments' own word alone; why nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feinschliff.inference.abilities import is_able, refuse_unable
from feinschliff.inference.life import NAME, Deployment, Failure, Route, RouteState, RouteStatus, State, Version
from feinschliff.inference.pool import BaseKey
from feinschliff.inference.sticky import Share, choose
from feinschliff.inference.versions import ALIAS, VERSION
from feinschliff.kit import names
from feinschliff.kit.errors import NotFound, Refusal, Unavailable, WrongState

LOADING = "MODEL_LOADING"
LOADING_RETRY_SECONDS = 2.0
_BASE_SCHEMES = ("hf:", "s3:", "file:", "pypi:")


class Target(NamedTuple):
    """What could answer: a deployment's base, with a version's adapter or alone; `route` where shares decided."""

    deployment: Deployment
    version: Version | None
    route: str = ""


def may_load_on_demand(model: str, deployments: Sequence[Deployment]) -> bool:
    """Whether it takes the registry's word to know what becomes of a version or an alias."""
    if not names.matches(VERSION, model) and not names.matches(ALIAS, model):
        return False
    project = model.split("/")[1]
    has_host = any(one.is_wanted and one.spec.on_demand and one.project == project for one in deployments)
    return has_host or not any(_concerns(one, model) for one in deployments)


def targets(model: str, deployments: Sequence[Deployment], sticky: str = "") -> list[Target]:
    """What answers `model` by the deployments' own word, the best first.

    Args:
        sticky: decides between the routes of a deployment, by their weights.
    """
    alive = [one for one in deployments if one.is_wanted]
    if names.matches(NAME, model):
        return [_by_weight(one, sticky) for one in alive if one.name == model and _answers_alone(one)]
    if names.matches(ALIAS, model) or names.matches(VERSION, model):
        return [
            Target(one, status.serving)
            for one in alive
            for route in one.spec.routes
            if (status := _ready(one, route.id)) and model in (route.model_version, _name(status.serving))
        ]
    return [Target(one, None) for one in alive if one.spec.base_model == model]


def within(deployments: Sequence[Deployment], model: str, project: str) -> Sequence[Deployment]:
    """The deployments that may answer a caller's call: those of its project.

    Args:
        project: the caller's, `projects/{project}`; empty where it does not say: then all those of one project, which
            `model` names, or which alone serves that base.

    Raises:
        NotFound: MODEL_UNKNOWN for what is another project's.
        WrongState: PROJECT_NEEDED for a base that several projects serve.
    """
    if project:
        if model.startswith("projects/") and not model.startswith(f"{project}/"):
            raise _unknown(model)
        mine = project.removeprefix("projects/")
        return [one for one in deployments if one.project == mine]
    owners = {one.project for one in deployments if one.is_wanted and one.spec.base_model == model}
    if len(owners) > 1:
        raise WrongState(
            "PROJECT_NEEDED",
            f"{len(owners)} projects serve {model}; say for which of them the call is.",
            advice=["Set `project` of the call, or name a deployment instead of the base."],
            model=model,
            projects=len(owners),
        )
    return deployments


def why_not(model: str, deployments: Sequence[Deployment]) -> Refusal:
    """The refusal for a model that nothing loaded answers."""
    related = [one for one in deployments if _concerns(one, model)]
    if any(_is_on_its_way(one, model) for one in related):
        return loading(model)
    failures = [failure for one in related if (failure := _failure(one, model))]
    if failures:
        message = f"{model} is not loaded: {failures[0].message}"
        return WrongState("MODEL_NOT_LOADED", message, advice=failures[0].advice, model=model, cause=failures[0].reason)
    if related or model.startswith(_BASE_SCHEMES) or names.matches(VERSION, model) or names.matches(ALIAS, model):
        return WrongState(
            "MODEL_NOT_LOADED",
            f"No deployment serves {model}.",
            advice=["Create a deployment with it, or one of its base with on_demand."],
            model=model,
        )
    return _unknown(model)


def _unknown(model: str) -> NotFound:
    return NotFound(
        "MODEL_UNKNOWN",
        f"There is no model {model[:200]!r}.",
        advice=["Name a deployment, a model version, projects/{project}/models/{model}@{alias}, or a base URI."],
        model=model[:200],
    )


def is_host(deployment: Deployment, version: Version) -> bool:
    """Whether a deployment may load the version on demand."""
    of_its_project = deployment.project == version.name.split("/")[1]
    same_base = version.base_model == deployment.spec.base_model or version.base_digest == deployment.status.base_digest
    return deployment.is_wanted and deployment.spec.on_demand and of_its_project and same_base


def hosts(version: Version, deployments: Sequence[Deployment]) -> list[Deployment]:
    """Those that may load the version on demand, and whose engine can compute it.

    Raises:
        Unserved: ENGINE_UNSERVED where there are some, but none that can.
    """
    found = [one for one in deployments if is_host(one, version)]
    able = [one for one in found if is_able(one.spec.engine, version)]
    if found and not able:
        refuse_unable(found[0].spec.engine, version)
    return able


def key_of(deployment: Deployment) -> BaseKey | None:
    """The loaded base of a deployment, once it has been found."""
    status = deployment.status
    return BaseKey(status.base_digest, status.precision, deployment.spec.engine) if status.base_digest else None


def pinned_on(key: BaseKey, deployments: Sequence[Deployment]) -> set[str]:
    """Digests of the adapters that routes on this base ask for."""
    return {
        route.serving.adapter_digest
        for one in deployments
        if one.is_wanted and key_of(one) == key
        for route in one.status.routes.values()
        if route.serving is not None
    }


def _by_weight(deployment: Deployment, sticky: str) -> Target:
    ready = {
        route.id: (Share(route.id, route.weight), status.serving)
        for route in _weighed(deployment)
        if (status := _ready(deployment, route.id))
    }
    if not ready:
        return Target(deployment, None)
    chosen = choose([share for share, _ in ready.values()], f"{deployment.name} {sticky}")
    return Target(deployment, ready[chosen][1], chosen)


def _weighed(deployment: Deployment) -> list[Route]:
    """The routes that share the calls which name only the deployment."""
    return [route for route in deployment.spec.routes if route.weight > 0 and not route.shadow]


def _answers_alone(deployment: Deployment) -> bool:
    """Whether a call that names only the deployment can be answered: by a route, or by the base where none counts."""
    weighed = _weighed(deployment)
    return not weighed or any(_ready(deployment, route.id) for route in weighed)


def _ready(deployment: Deployment, route_id: str) -> RouteStatus | None:
    status = deployment.status.routes.get(route_id)
    return status if status is not None and status.state is RouteState.READY else None


def _name(version: Version | None) -> str:
    return version.name if version else ""


def _concerns(deployment: Deployment, model: str) -> bool:
    if deployment.status.state is State.DELETING:
        return False
    routes = [route.model_version for route in deployment.spec.routes]
    return model in (deployment.name, deployment.spec.base_model, *routes)


def _is_on_its_way(deployment: Deployment, model: str) -> bool:
    if not deployment.is_wanted:
        return False
    if deployment.status.state in (State.PENDING, State.LOADING, State.READY):
        return True
    routes = [route for route in deployment.spec.routes if route.model_version == model]
    statuses = [deployment.status.routes.get(route.id, RouteStatus()) for route in routes]
    return any(one.state in (RouteState.PENDING, RouteState.LOADING) for one in statuses)


def _failure(deployment: Deployment, model: str) -> Failure | None:
    for route in deployment.spec.routes:
        status = deployment.status.routes.get(route.id)
        if route.model_version == model and status is not None and status.failure is not None:
            return status.failure
    return deployment.status.failure


def loading(model: str) -> Unavailable:
    return Unavailable(
        "MODEL_LOADING",
        f"{model} is being loaded; try again in {LOADING_RETRY_SECONDS:g} s.",
        retry_after_seconds=LOADING_RETRY_SECONDS,
        model=model,
    )
