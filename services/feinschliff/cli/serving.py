"""Who serves a model: found among the deployments, made where nobody does, waited for until it is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from feinschliff.artifacts.bases import short_name
from feinschliff.cli.following import follow
from feinschliff.cli.names import is_base_uri, short
from feinschliff.cli.pages import every
from feinschliff.cli.progress import ProgressView
from feinschliff.cli.services import refusals
from feinschliff.cli.session import Session
from feinschliff.cli.words import state
from feinschliff.kit.errors import AlreadyExists, FieldViolation, Invalid, NotFound, WrongState
from feinschliff.v1 import inference_pb2 as pb
from feinschliff.v1 import registry_pb2

SETTLED = {pb.Deployment.STATE_READY, pb.Deployment.STATE_DEGRADED, pb.Deployment.STATE_FAILED}
ROUTE_CHARACTERS_MAX = 64
_UNFIT = re.compile(r"[^a-z0-9._-]+")


def require(session: Session, model: str, *, make: bool) -> None:
    """Sees to it that calls which name `model` are answered.

    Args:
        make: whether to deploy its base, adapters on demand, where nothing serves it.

    Raises:
        WrongState: MODEL_NOT_LOADED where nothing serves it and `make` is False.
    """
    if "/deployments/" in model:
        wait_until_settled(session, model)
        return
    base = model if is_base_uri(model) else base_of(session, model)
    host = find_host(session, model, base)
    if host is None and not make:
        command = f"feinschliff deploy {short(model) if model != base else '--base ' + base}"
        raise WrongState(
            "MODEL_NOT_LOADED", f"No deployment serves {model}.", advice=[command, "or add --deploy"], model=model
        )
    wait_until_settled(session, host or deploy(session, base, []).name)


def find_host(session: Session, model: str, base: str) -> str | None:
    """The deployment that answers `model`, or None."""
    query = pb.ListDeploymentsRequest(parent=session.names.parent)
    for one in every(session.services.deployments.ListDeployments, query, lambda page: page.deployments):
        routed = model in {route.model_version for route in one.routes}
        if one.base_model == base and (model == base or routed or one.on_demand):
            return str(one.name)
    return None


def base_of(session: Session, model_version: str) -> str:
    """The base URI of a version or alias."""
    with refusals():
        request = registry_pb2.GetModelVersionRequest(name=model_version)
        return session.services.registry.GetModelVersion(request).base_model


def one_base_of(session: Session, model_versions: Sequence[str]) -> str:
    """Raises Invalid BASES_DIFFER where adapters of several bases are to go onto one."""
    bases = {version: base_of(session, version) for version in model_versions}
    if len(set(bases.values())) > 1:
        told = ", ".join(f"{short(version)} is on {base}" for version, base in bases.items())
        message = f"One deployment has one base: {told}."
        raise Invalid("BASES_DIFFER", message, fields=[FieldViolation("MODEL_VERSION", told, "BASES_DIFFER")])
    return next(iter(bases.values()))


def deploy(
    session: Session,
    base: str,
    model_versions: Sequence[str],
    *,
    deployment_id: str = "",
    on_demand: bool = True,
    only: bool = False,
    precision: pb.Deployment.Precision.ValueType = pb.Deployment.PRECISION_UNSPECIFIED,
) -> pb.Deployment:
    """Makes the deployment, or changes the one of that id.

    Args:
        precision: of a new one; where it is said, one that is there must have it.
        only: whether other routes that it has are taken away.
    """
    wanted_id = deployment_id or short_name(base)
    routes = [route_of(version) for version in model_versions]
    wanted = pb.Deployment(base_model=base, routes=routes, on_demand=on_demand, precision=precision)
    stub = session.services.deployments
    try:
        with refusals():
            request = pb.CreateDeploymentRequest(
                parent=session.names.parent, deployment_id=wanted_id, deployment=wanted
            )
            return stub.CreateDeployment(request)
    except AlreadyExists:
        with refusals():
            there = stub.GetDeployment(pb.GetDeploymentRequest(name=f"{session.names.parent}/deployments/{wanted_id}"))
    if there.base_model != base:
        message = f"{there.name} serves {there.base_model}, not {base}."
        raise WrongState("DEPLOYMENT_OF_OTHER_BASE", message, advice=["name another one: --id ID"], name=there.name)
    if precision not in (pb.Deployment.PRECISION_UNSPECIFIED, there.precision):
        raise WrongState(
            "DEPLOYMENT_OF_OTHER_PRECISION",
            f"{there.name} is there already, with weights in another precision.",
            advice=["name another one: --id ID"],
            name=there.name,
        )
    changed = pb.UpdateDeploymentRequest(deployment=there)
    changed.deployment.on_demand = on_demand
    del changed.deployment.routes[:]
    changed.deployment.routes.extend(merged([] if only else there.routes, routes))
    changed.update_mask.paths.extend(["routes", "on_demand"])
    with refusals():
        return stub.UpdateDeployment(changed)


def merged(there: Sequence[pb.Route], added: Sequence[pb.Route]) -> list[pb.Route]:
    """The routes there, and the added ones in place of those with the same id."""
    by_id = {route.id: pb.Route(id=route.id, model_version=route.model_version) for route in there}
    for before in there:
        if before.HasField("weight"):
            by_id[before.id].weight = before.weight
        by_id[before.id].shadow = before.shadow
    return list({**by_id, **{route.id: route for route in added}}.values())


def route_of(model_version: str) -> pb.Route:
    """A route whose id follows from the version: `intents-3`, `intents-production`."""
    words = _UNFIT.sub("-", short(model_version).replace("@", "-"))
    return pb.Route(id=words[-ROUTE_CHARACTERS_MAX:].strip("-._"), model_version=model_version)


def wait_until_settled(session: Session, name: str) -> pb.Deployment:
    """The deployment once all that is wanted is loaded.

    Raises:
        WrongState: what kept it from loading.
        NotFound: DEPLOYMENT_NOT_FOUND where it goes away meanwhile.
    """

    def open_stream(at: int) -> Iterator[pb.WatchDeploymentResponse]:
        return session.services.deployments.WatchDeployment(pb.WatchDeploymentRequest(name=name, cursor=at))

    with ProgressView(session.output.err, short(name), is_silent=session.output.as_json) as view:
        for response in follow(open_stream, lambda one: one.deleted or one.deployment.state in SETTLED):
            seen = response.deployment
            if response.deleted:
                raise NotFound("DEPLOYMENT_NOT_FOUND", f"{name} was deleted.", name=name)
            if seen.state == pb.Deployment.STATE_READY:
                return seen
            if seen.state in SETTLED:
                why = seen.failure
                raise WrongState(why.reason or "DEPLOYMENT_FAILED", why.message, advice=list(why.advice), name=name)
            doing = state(pb.Deployment.State.Name, seen.state).lower()
            view.at(seen.progress.done, seen.progress.total, doing=doing)
    raise AssertionError("following ends with a final state")
