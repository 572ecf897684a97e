"""`feinschliff classify`: what a head says of texts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from feinschliff.cli import serving
from feinschliff.cli.output import table
from feinschliff.cli.services import refusals
from feinschliff.cli.session import Json, Project, open_session
from feinschliff.v1 import inference_pb2 as pb

TEXTS_MAX = 2048  # of one call
SECONDS_MAX = 600.0
CHARACTERS_SHOWN = 60


def classify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A version with a head, by its name or alias.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="`-` alone reads one text a line from stdin.")],
    top: Annotated[int, typer.Option(min=0, help="Classes shown of each text, the likeliest first; 0: all.")] = 1,
    deploy: Annotated[bool, typer.Option("--deploy", help="Serve the model first where nothing does.")] = False,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Give each TEXT its class or its number, by a model that was trained to."""
    session = open_session(project, as_json)
    asked = session.names.servable(model)
    serving.require(session, asked, make=deploy)
    said = [line.rstrip("\n") for line in sys.stdin if line.strip()] if texts == ["-"] else texts
    found: list[pb.Classification] = []
    with refusals():
        for start in range(0, len(said), TEXTS_MAX):
            texts_here = said[start : start + TEXTS_MAX]
            request = pb.ClassifyRequest(model=asked, texts=texts_here, top=top, project=f"projects/{project}")
            found += session.services.inference.Classify(request, timeout=SECONDS_MAX).classifications
    session.output.show(found, lambda: table(("TEXT", "SAYS"), rows(said, found)))


def rows(texts: Sequence[str], found: Sequence[pb.Classification]) -> Iterator[tuple[str, str]]:
    """Each text, shortened, and what the head says of it."""
    for text, one in zip(texts, found, strict=True):
        shown = text if len(text) <= CHARACTERS_SHOWN else text[: CHARACTERS_SHOWN - 3] + "..."
        if one.HasField("value"):
            yield shown, f"{one.value:g}"
        else:
            yield shown, ", ".join(f"{score.label} {score.probability:.1%}" for score in one.scores)
