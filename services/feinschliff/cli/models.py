"""`feinschliff models`: what came out, where it came from, and which version an alias means."""

from __future__ import annotations

from typing import Annotated

import typer
from google.protobuf import field_mask_pb2
from rich.console import Group
from rich.text import Text

from feinschliff.cli.errors import REFUSED
from feinschliff.cli.names import expand, short
from feinschliff.cli.output import facts, number, table
from feinschliff.cli.pages import every
from feinschliff.cli.services import refusals
from feinschliff.cli.session import Json, Project, Session, open_session
from feinschliff.cli.words import failure, moment, state
from feinschliff.v1 import registry_pb2 as pb

app = typer.Typer(help="List models, show versions and lineage, move aliases, combine adapters.")
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="`intents`, `intents/3`, `intents@alias`, `ft:...`.")]
_DIRECTIONS = {
    "both": pb.GetLineageRequest.DIRECTION_BOTH,
    "ancestors": pb.GetLineageRequest.DIRECTION_ANCESTORS,
    "descendants": pb.GetLineageRequest.DIRECTION_DESCENDANTS,
}
_METHODS = {
    "linear": pb.CombineAdaptersRequest.METHOD_LINEAR,
    "concatenate": pb.CombineAdaptersRequest.METHOD_CONCATENATE,
    "ties": pb.CombineAdaptersRequest.METHOD_TIES,
    "dare": pb.CombineAdaptersRequest.METHOD_DARE,
}


@app.callback(invoke_without_command=True)
def models(context: typer.Context, project: Project = "default", as_json: Json = False) -> None:
    """List the models of the project, or show one with a command below."""
    if context.invoked_subcommand is None:
        _list(open_session(project, as_json))


@app.command("list")
def list_(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="List the versions of this model.")] = "",
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """List the models of the project, or the versions of one."""
    session = open_session(project, as_json)
    if not model:
        _list(session)
        return
    query = pb.ListModelVersionsRequest(parent=expand(model, "models", project))
    found = every(session.services.registry.ListModelVersions, query, lambda page: page.model_versions)
    rows = (
        (
            short(one.name),
            state(pb.ModelVersion.State.Name, one.state),
            one.base_model,
            ", ".join(one.aliases),
            one.public_name,
            moment(one.create_time),
        )
        for one in found
    )
    session.output.show(found, lambda: table(("VERSION", "STATE", "BASE", "ALIASES", "PUBLIC NAME", "CREATED"), rows))


@app.command()
def show(model: ModelName, project: Project = "default", as_json: Json = False) -> None:
    """Show a version: what it is made of and how it did; the newest, unless MODEL says which."""
    session = open_session(project, as_json)
    with refusals():
        request = pb.GetModelVersionRequest(name=session.names.model_version(model))
        version = session.services.registry.GetModelVersion(request)
    session.output.show(version, lambda: described(version))


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model, or a whole name of anything.")],
    direction: Annotated[str, typer.Option(help=f"One of {', '.join(_DIRECTIONS)}.")] = "both",
    depth: Annotated[int, typer.Option(min=1, max=32, help="Steps away from NAME.")] = 8,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Show what a thing was made from, and what was made from it."""
    if direction not in _DIRECTIONS:
        raise typer.BadParameter(f"{direction!r} is none of {', '.join(_DIRECTIONS)}", param_hint="--direction")
    session = open_session(project, as_json)
    whole = name if name.startswith("projects/") else session.names.model_version(name)
    request = pb.GetLineageRequest(name=whole, direction=_DIRECTIONS[direction], depth=depth)
    with refusals():
        graph = session.services.registry.GetLineage(request)
    session.output.show(graph, lambda: drawn(graph))


@app.command()
def alias(
    model: Annotated[str, typer.Argument(metavar="VERSION", help="`intents/3`, or `intents` for the newest.")],
    alias_: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as `production`.")],
    reason: Annotated[str, typer.Option(help="Why it moves, for its history.")] = "",
    verdict: Annotated[str, typer.Option(help="`GATE/VERDICT` that allows it; a protected alias needs one.")] = "",
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Point an alias at a version."""
    session = open_session(project, as_json)
    version = session.names.model_version(model)
    name = f"{version.partition('/versions/')[0]}/aliases/{alias_}"
    gate, _, given = verdict.partition("/")
    whole = f"projects/{project}/gatePolicies/{gate}/verdicts/{given}"
    allowed = whole if verdict and not verdict.startswith("projects/") else verdict
    moved_to = pb.Alias(name=name, model_version=version, reason=reason, verdict=allowed)
    request = pb.SetAliasRequest(alias=moved_to)
    with refusals():
        moved = session.services.registry.SetAlias(request)
    session.output.show(moved, lambda: Text(f"{alias_} -> {short(moved.model_version)}"))


@app.command()
def protect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, such as `intents`.")],
    alias_: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as `production`.")],
    gate: Annotated[str, typer.Option(help="Gate that must speak for every move. Default: any of the project.")] = "",
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Let an alias move only with a passed verdict; with --gate, one of that gate against what it points to."""
    session = open_session(project, as_json)
    registry = session.services.registry
    with refusals():
        known = registry.GetModel(pb.GetModelRequest(name=expand(model, "models", project)))
        wanted = protected(known, alias_, expand(gate, "gatePolicies", project) if gate else "")
        mask = field_mask_pb2.FieldMask(paths=["protected_aliases", "alias_gates"])
        made = registry.UpdateModel(pb.UpdateModelRequest(model=wanted, update_mask=mask))
    by = short(made.alias_gates[alias_]) if alias_ in made.alias_gates else "any gate"
    session.output.show(made, lambda: Text(f"{short(made.name)}@{alias_} needs a verdict of {by}"))


def protected(model: pb.Model, alias_: str, gate: str) -> pb.Model:
    """The model with one alias protected as told; its etag stays, so that another writer is noticed."""
    wanted = pb.Model(name=model.name, etag=model.etag, alias_gates=model.alias_gates)
    wanted.protected_aliases.extend(sorted({*model.protected_aliases, alias_}))
    wanted.alias_gates.pop(alias_, None)
    if gate:
        wanted.alias_gates[alias_] = gate
    return wanted


@app.command()
def combine(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model that the result is added to.")],
    adapters: Annotated[
        list[str], typer.Argument(metavar="VERSION[=WEIGHT]...", help="`intents/3` or `intents/3=0.7`; at least two.")
    ],
    method: Annotated[str, typer.Option(help=f"One of {', '.join(_METHODS)}.")] = "linear",
    density: Annotated[float | None, typer.Option(help="Share kept by ties and dare. Default 0.5.")] = None,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Only check that they fit.")] = False,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Make one version from several low-rank adapters of the same base."""
    if method not in _METHODS:
        raise typer.BadParameter(f"{method!r} is none of {', '.join(_METHODS)}", param_hint="--method")
    session = open_session(project, as_json)
    with refusals():
        request = pb.CombineAdaptersRequest(
            parent=expand(model, "models", project),
            adapters=[_weighted(session, one) for one in adapters],
            method=_METHODS[method],
            density=density,
            validate_only=validate_only,
        )
        export = session.services.registry.CombineAdapters(request)
        if not validate_only:
            for change in session.services.registry.WatchExport(pb.WatchExportRequest(name=export.name)):
                export = change.export
    session.output.show(export, lambda: exported(export))
    if not validate_only and export.state != pb.Export.STATE_SUCCEEDED:
        raise typer.Exit(REFUSED)


def exported(export: pb.Export) -> Group:
    """An export as a person reads it."""
    return Group(
        facts(
            {
                "export": short(export.name) if export.name else "(not stored)",
                "state": state(pb.Export.State.Name, export.state),
                "version": short(export.result_version),
                "files": ", ".join(one.path for one in export.files),
                "bytes": export.artifact.size_bytes or "",
                "failure": failure(export.failure),
            }
        )
    )


def _weighted(session: Session, text: str) -> pb.AdapterWeight:
    name, _, weight = text.partition("=")
    try:
        amount = float(weight) if weight else 1.0
    except ValueError:
        raise typer.BadParameter(f"{weight!r} is no number", param_hint=text) from None
    found = session.names.model_version(name)
    if "@" in found:
        found = session.services.registry.GetModelVersion(pb.GetModelVersionRequest(name=found)).name
    return pb.AdapterWeight(model_version=found, weight=amount)


def described(version: pb.ModelVersion) -> Group:
    """A version as a person reads it."""
    numbers = {name.replace("_", " "): number(value) for name, value in sorted(version.metrics.items())}
    return Group(
        facts(
            {
                "version": short(version.name),
                "state": state(pb.ModelVersion.State.Name, version.state),
                "public name": version.public_name,
                "aliases": ", ".join(version.aliases),
                "base": version.base_model,
                "base digest": version.base_digest,
                "adapter": version.adapter.uri,
                "adapter digest": version.adapter_digest,
                "job": short(version.training_job),
                "data": ", ".join(
                    f"{short(one.dataset_version)} ({one.rows} rows)" for one in version.dataset_versions
                ),
                "code": version.code_version,
                "chat template": version.chat_template_hash,
                "tokenizer": version.tokenizer_hash,
                "golden probes": len(version.golden_probes) or "",
                **numbers,
                "made": moment(version.create_time),
            }
        )
    )


def drawn(graph: pb.LineageGraph) -> Group:
    """A graph as lines: things, then what made what."""
    return Group(
        table(
            ("KIND", "NAME", "STATE", "DIGEST"),
            ((node.kind, short(node.name), node.state, node.digest[:19]) for node in graph.nodes),
        ),
        Text(""),
        *(Text(f"{short(edge.source)} --{edge.relation}--> {short(edge.target)}") for edge in graph.edges),
    )


def _list(session: Session) -> None:
    query = pb.ListModelsRequest(parent=session.names.parent)
    found = every(session.services.registry.ListModels, query, lambda page: page.models)
    rows = ((short(m.name), m.version_count, short(m.latest_version), moment(m.create_time)) for m in found)
    session.output.show(found, lambda: table(("MODEL", "#VERSIONS", "NEWEST", "CREATED"), rows))
