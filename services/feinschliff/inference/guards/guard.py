"""The guards of a deployment as they are stored; bounds are checked by `bounds`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from feinschliff.formats.base import Stored


class Action(StrEnum):
    LOG = "log"
    MASK = "mask"
    BLOCK = "block"


class Stage(StrEnum):
    INPUT = "input"
    OUTPUT = "output"
    TEXT = "text"
    """A text alone, in CheckText."""


class Patterns(Stored):
    kind: Literal["pattern"] = "pattern"
    patterns: tuple[str, ...]


class PersonalData(Stored):
    kind: Literal["personal_data"] = "personal_data"
    kinds: tuple[str, ...]


class Secrets(Stored):
    kind: Literal["secrets"] = "secrets"
    kinds: tuple[str, ...] = ()


class Injection(Stored):
    kind: Literal["injection"] = "injection"
    sets: tuple[str, ...] = ()


class Words(Stored):
    kind: Literal["words"] = "words"
    words: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()


class Topic(Stored):
    name: str
    words: tuple[str, ...]


class Topics(Stored):
    kind: Literal["topics"] = "topics"
    deny: tuple[Topic, ...] = ()
    allow: tuple[Topic, ...] = ()


class Size(Stored):
    kind: Literal["size"] = "size"
    characters_max: int


class Model(Stored):
    model_config = ConfigDict(allow_inf_nan=True)

    kind: Literal["model"] = "model"
    model: str
    labels: tuple[str, ...]
    threshold: float = 0.5


Kind = Annotated[
    Patterns | PersonalData | Secrets | Injection | Words | Topics | Size | Model, Field(discriminator="kind")
]


class Guard(Stored):
    """One check: what it looks for, when, and what happens where it finds something."""

    name: str
    of: Kind
    action: Action = Action.BLOCK
    stages: frozenset[Stage] = frozenset({Stage.INPUT, Stage.OUTPUT})
    may_be_skipped: bool = False

    def runs_at(self, stage: Stage) -> bool:
        return stage is Stage.TEXT or stage in self.stages
