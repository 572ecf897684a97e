"""What every client command begins with: the services, names of its project, and where to print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from feinschliff.cli.names import Names
from feinschliff.cli.output import Output
from feinschliff.cli.services import Services, connect, settings_of_running
from feinschliff.cli.settings import PlatformSettings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Project = Annotated[
    str, typer.Option("--project", envvar="FEINSCHLIFF_PROJECT", help="The project that short names are in.")
]


@dataclass(frozen=True)
class Session:
    settings: PlatformSettings
    services: Services
    names: Names
    output: Output


def open_session(project: str, as_json: bool) -> Session:
    settings = settings_of_running()
    return session_of(settings, project, Output(as_json=as_json))


def session_of(settings: PlatformSettings, project: str, output: Output) -> Session:
    services = connect(settings)
    return Session(settings, services, Names(project, services), output)
