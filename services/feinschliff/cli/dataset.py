"""`feinschliff dataset`: push files, show and list what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group

from feinschliff.cli import uploads
from feinschliff.cli.names import short, versioned
from feinschliff.cli.output import facts, plain, table
from feinschliff.cli.pages import every
from feinschliff.cli.services import refusals
from feinschliff.cli.session import Json, Project, Session, open_session
from feinschliff.cli.words import findings, moment, state
from feinschliff.v1 import common_pb2
from feinschliff.v1 import ingestion_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="Push files, show and list datasets.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="`routing`, `routing/3`, or a whole name.")]


@app.command()
def push(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True)],
    name: Annotated[str, typer.Option(help="The dataset; each FILE becomes a version. Default: the file's name.")] = "",
    format_: Annotated[str, typer.Option("--format", help=f"One of {', '.join(uploads.FORMATS)}.")] = "auto",
    validation: Annotated[float, typer.Option(help="Share of the rows to watch during training.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the rows held back for evals.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed divides differently.")] = 0,
    skip_bad_rows: Annotated[bool, typer.Option(help="Keep the good rows of a file that has bad ones.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Say what is found in the file and store nothing.")] = False,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Upload each FILE as a new version of a dataset."""
    if format_ not in uploads.FORMATS:
        raise typer.BadParameter(f"{format_!r} is none of {', '.join(uploads.FORMATS)}", param_hint="--format")
    session = open_session(project, as_json)
    split = uploads.Split(validation=validation, test=test, seed=seed)
    versions = []
    for file in files:
        dataset = f"{session.names.parent}/datasets/{name or uploads.dataset_id(file)}"
        header = uploads.header(
            dataset, file, format_=format_, split=split, skip_bad_rows=skip_bad_rows, validate_only=check
        )
        versions.append(uploads.send(session.services, header, file))
        session.output.note(f"{file}: {'checked' if check else short(versions[-1].name)}")
    shown = versions[0] if len(versions) == 1 else versions
    session.output.show(shown, lambda: Group(*(described(version) for version in versions)))


@app.command()
def show(
    name: Name,
    rows: Annotated[int, typer.Option(min=0, max=100, help="How many rows to print as well.")] = 0,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Show a version of a dataset; the newest, unless NAME says which."""
    session = open_session(project, as_json)
    with refusals():
        request = pb.GetDatasetVersionRequest(name=session.names.dataset_version(name))
        version = session.services.datasets.GetDatasetVersion(request)
    sample = _first_rows(session, version.name, rows)
    data = {**plain(version), "sample": plain(sample)} if rows else version
    session.output.show(data, lambda: described(version))
    for row in sample:
        session.output.text(json.dumps(plain(row.data), ensure_ascii=False))


@app.command("list")
def list_(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="List the versions of this dataset.")] = "",
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """List the datasets of the project, or the versions of one."""
    session = open_session(project, as_json)
    if name:
        _list_versions(session, versioned(name, "datasets", project)[0])
        return
    query = pb.ListDatasetsRequest(parent=session.names.parent)
    found = every(session.services.datasets.ListDatasets, query, lambda page: page.datasets)
    rows = ((short(d.name), d.version_count, short(d.latest_version), moment(d.create_time)) for d in found)
    session.output.show(found, lambda: table(("DATASET", "#VERSIONS", "NEWEST", "CREATED"), rows))


def described(version: pb.DatasetVersion) -> Group:
    """A version as a person reads it."""
    by_split = ", ".join(f"{name} {count}" for name, count in sorted(version.rows_by_split.items()))
    return Group(
        facts(
            {
                "version": short(version.name),
                "state": state(pb.DatasetVersion.State.Name, version.state),
                "format": pb.RowFormat.Name(version.format).removeprefix("ROW_FORMAT_").lower(),
                "rows": f"{version.rows} ({by_split})" if by_split else version.rows,
                "tokens": f"{version.tokens} ({version.tokenizer})" if version.tokenizer else "not counted",
                "sha256": version.sha256,
                "source": version.source.uri,
                "made": moment(version.create_time),
            }
        ),
        *findings(version.findings),
    )


def _list_versions(session: Session, dataset: str) -> None:
    query = pb.ListDatasetVersionsRequest(parent=dataset)
    found = every(session.services.datasets.ListDatasetVersions, query, lambda page: page.dataset_versions)
    rows = (
        (short(v.name), state(pb.DatasetVersion.State.Name, v.state), v.rows, v.tokens, moment(v.create_time))
        for v in found
    )
    session.output.show(found, lambda: table(("VERSION", "STATE", "#ROWS", "#TOKENS", "CREATED"), rows))


def _first_rows(session: Session, version: str, count: int) -> list[pb.Row]:
    if count == 0:
        return []
    request = pb.ReadRowsRequest(name=version, split=common_pb2.SPLIT_UNSPECIFIED, limit=count)
    with refusals():
        return [row for page in session.services.datasets.ReadRows(request) for row in page.rows]
