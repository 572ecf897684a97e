"""Writes docs/settings.md from the settings classes: `python -m tests.support.settings_doc > docs/settings.md`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from feinschliff.cli.settings import MigrateSettings, PlatformSettings
from feinschliff.evaluation.settings import EvaluationSettings
from feinschliff.gateway.settings import GatewaySettings
from feinschliff.inference.settings import InferenceSettings
from feinschliff.ingestion.settings import IngestionSettings
from feinschliff.kit.settings import ENV_PREFIX, Settings
from feinschliff.registry.settings import RegistrySettings
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.training.settings import TrainingSettings


class Section(NamedTuple):
    """One part of the page: the variables that `settings` declares itself, and what to know about them."""

    title: str
    settings: type[Settings]
    preface: str


SECTIONS = (
    Section("Shared", Settings, "Every service reads these. `{home}` and `{room}` in a value are filled in."),
    Section("ingestion", IngestionSettings, "The service that takes data in."),
    Section("training", TrainingSettings, "The service that decides what runs; it starts the trainer's attempts."),
    Section(
        "trainer",
        TrainerSettings,
        """\
The program that trains one attempt. The training service starts it with the two variables of the attempt, and passes on
its own home, training address, S3, offline, log, TLS and trace settings, every `FEINSCHLIFF_TRAINER_` variable, and on
a cluster what the execution profile sets; any other variable reaches only a trainer that is started by hand.""",
    ),
    Section("registry", RegistrySettings, "The service that knows what came out."),
    Section("evaluation", EvaluationSettings, "The service that says how good it is."),
    Section("inference", InferenceSettings, "The service that answers; a shared variable has another default here."),
    Section("gateway", GatewaySettings, "The HTTP door in OpenAI's shape."),
    Section(
        "The platform on one machine",
        PlatformSettings,
        """\
`feinschliff up` passes its environment on to every service; the defaults listed here are its own. Where they are not
set, the address of a service follows from its port, the S3 endpoint from `FEINSCHLIFF_S3_PORT`, and a pair of S3 keys
is made in the home. An S3 endpoint elsewhere keeps the embedded S3 server from starting.

Client commands read the same variables, and take a port that is not set from the platform that runs in the home.
`FEINSCHLIFF_PROJECT` names the project that short names are in; without it that is `default`.""",
    ),
    Section(
        "Migrations",
        MigrateSettings,
        """\
`python -m feinschliff.cli.migrate` brings the tables of every room to its own version and, given S3 keys, makes
the bucket, before any service starts; services do the same for themselves. It reads the database and S3 from
the shared variables.""",
    ),
)
PREFACE = """\
# Settings

A service is told everything by environment variables; the defaults run it all on one machine. It reads them once, at
its start, and no file beside them. A variable that is set to nothing counts as not set. A wrong value stops the start
with exit code 2 and one line for each wrong variable, which names it; secrets are not repeated.

This page is written from the settings classes, `kit/settings.py` and the `settings.py` of each room.
"""
HEAD = ("environment variable", "default", "what it does")


def page() -> str:
    return "\n".join([PREFACE, *(line for section in SECTIONS for line in lines(section))])


def lines(section: Section) -> Iterator[str]:
    yield f"## {section.title}\n\n{section.preface}\n"
    yield f"| {' | '.join(HEAD)} |"
    yield "|---" * len(HEAD) + "|"
    for name in inspect.get_annotations(section.settings):
        if name in section.settings.model_fields:
            yield row(f"{ENV_PREFIX}{name.upper()}", section.settings.model_fields[name])
    yield ""


def row(variable: str, field: FieldInfo) -> str:
    limits = allowed(field)
    text = f"{field.description} {limits}".strip().replace("|", "\\|")
    size = binary(field.default) if "_BYTES_" in variable else ""
    return f"| `{variable}` | {default(field)}{size} | {text} |"


def default(field: FieldInfo) -> str:
    """The value that a person would set; a secret's is never shown."""
    match field.default:
        case SecretStr():
            return "(secret)"
        case "" | None:
            return "(empty)"
        case bool(value):
            return f"`{str(value).lower()}`"
        case Mapping() as pairs:
            return f"`{','.join(f'{key}={value}' for key, value in pairs.items())}`"
        case value:
            return f"`{value}`"


def binary(size_bytes: int) -> str:
    """A size in words that stand behind the number, where it is a whole one."""
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if size_bytes >= unit and size_bytes % unit == 0:
            return f" ({size_bytes // unit} {name})"
    return ""


def allowed(field: FieldInfo) -> str:
    """The range or the choices that a value is held to; nothing where any value of the type goes."""
    if get_origin(field.annotation) is Literal:
        return f"One of {', '.join(f'`{choice}`' for choice in get_args(field.annotation))}."
    bounds = {
        kind: getattr(rule, kind) for rule in field.metadata for kind in ("ge", "gt", "le") if hasattr(rule, kind)
    }
    if "gt" in bounds:
        return f"Above {bounds['gt']}, at most {bounds['le']}." if "le" in bounds else f"Above {bounds['gt']}."
    if "ge" in bounds:
        return f"{bounds['ge']} to {bounds['le']}." if "le" in bounds else f"{bounds['ge']} or more."
    return f"At most {bounds['le']}." if bounds else ""


if __name__ == "__main__":
    print(page(), end="")
