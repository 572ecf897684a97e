"""`feinschliff deploy`, `deployments` and `chat`: models that answer."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Group

from feinschliff.artifacts.bases import DEFAULT_BASE
from feinschliff.cli import chatting, serving
from feinschliff.cli.names import short
from feinschliff.cli.output import facts, table
from feinschliff.cli.pages import every
from feinschliff.cli.session import Json, Project, open_session
from feinschliff.cli.words import failure, moment, state
from feinschliff.v1 import inference_pb2 as pb

PRECISIONS = {
    "auto": pb.Deployment.PRECISION_AUTO,
    "bf16": pb.Deployment.PRECISION_BF16,
    "fp32": pb.Deployment.PRECISION_FP32,
    "int8": pb.Deployment.PRECISION_INT8,
}


def deploy(
    versions: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL_VERSION]", help="`intents`, `intents/3`, `intents@alias`.")
    ] = None,
    base: Annotated[str, typer.Option(help=f"URI of the base; default: that of the versions, or {DEFAULT_BASE}.")] = "",
    deployment_id: Annotated[str, typer.Option("--id", help="Last part of its name; default: after the base.")] = "",
    on_demand: Annotated[bool, typer.Option(help="Load other adapters of the base when they are called.")] = True,
    only: Annotated[bool, typer.Option("--only", help="Take away versions that it served and are not named.")] = False,
    precision: Annotated[
        str, typer.Option(help=f"How weights are kept: {', '.join(PRECISIONS)}; int8 takes half of bf16's memory.")
    ] = "",
    wait: Annotated[bool, typer.Option(help="Stay until all is loaded.")] = True,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Serve a base and versions on it, together in one process."""
    session = open_session(project, as_json)
    names = [session.names.model_version(version) for version in versions or ()]
    uri = base or (serving.one_base_of(session, names) if names else DEFAULT_BASE)
    if precision and precision not in PRECISIONS:
        raise typer.BadParameter(f"{precision!r} is none of {', '.join(PRECISIONS)}", param_hint="--precision")
    made = serving.deploy(
        session,
        uri,
        names,
        deployment_id=deployment_id,
        on_demand=on_demand,
        only=only,
        precision=PRECISIONS.get(precision, pb.Deployment.PRECISION_UNSPECIFIED),
    )
    if wait:
        made = serving.wait_until_settled(session, made.name)
    session.output.show(made, lambda: described(made))


def deployments(project: Project = "default", as_json: Json = False) -> None:
    """List the deployments of the project."""
    session = open_session(project, as_json)
    query = pb.ListDeploymentsRequest(parent=session.names.parent)
    found = every(session.services.deployments.ListDeployments, query, lambda page: page.deployments)
    rows = (
        (
            short(one.name),
            one.base_model,
            state(pb.Deployment.State.Name, one.state),
            ", ".join(short(route.model_version) for route in one.routes) + (" + on demand" if one.on_demand else ""),
            moment(one.create_time),
        )
        for one in found
    )
    session.output.show(found, lambda: table(("DEPLOYMENT", "BASE", "STATE", "VERSIONS", "CREATED"), rows))


def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, version, alias, deployment or base URI.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say; `-` reads it from standard input.")],
    system: Annotated[str, typer.Option(help="Instructions above the conversation.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Tokens of the answer at most.")] = 256,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest token.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer.")] = None,
    deploy: Annotated[bool, typer.Option("--deploy", help="Serve the model first where nothing does.")] = False,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Ask MODEL; the answer comes as it is made."""
    session = open_session(project, as_json)
    asked = session.names.servable(model)
    serving.require(session, asked, make=deploy)
    said = sys.stdin.read() if text == "-" else text
    request = chatting.request_of(
        asked,
        said,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        project=f"projects/{project}",
    )
    answer = chatting.stream(session.services, request, None if as_json else chatting.to_stdout)
    if as_json:
        session.output.line(answer.data(), indent=2)
        return
    session.output.text("")
    session.output.note(
        f"{short(answer.identity.model_version)}, {answer.end.usage.prompt_tokens} prompt"
        f" + {answer.end.usage.completion_tokens} answer tokens"
    )


def described(deployment: pb.Deployment) -> Group:
    """A deployment as a person reads it."""
    return Group(
        facts(
            {
                "deployment": short(deployment.name),
                "base": deployment.base_model,
                "base digest": deployment.base_digest,
                "state": state(pb.Deployment.State.Name, deployment.state),
                "on demand": "yes" if deployment.on_demand else "no",
                "failure": failure(deployment.failure),
            }
        ),
        *(
            [
                table(
                    ("ROUTE", "VERSION", "STATE", "DIGEST"),
                    (
                        (
                            route.id,
                            short(route.resolved_version or route.model_version),
                            state(pb.Route.State.Name, route.state),
                            route.adapter_digest[:19],
                        )
                        for route in deployment.routes
                    ),
                )
            ]
            if deployment.routes
            else []
        ),
    )
