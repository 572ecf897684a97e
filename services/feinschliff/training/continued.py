"""Training a version further: its adapter goes on as it was made, so its settings are the job's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from feinschliff.formats.adaptations import Adaptation
from feinschliff.formats.recipe import Recipe
from feinschliff.kit.errors import FieldViolation, WrongState

PATH = "training_job.recipe"


@dataclass(frozen=True)
class VersionFacts:
    """What a job needs to know of the model version that it continues."""

    name: str
    base_model: str
    base_digest: str
    adapter_prefix: str
    adaptation: Adaptation | None = None  # that made it; None: not known, such as an import's


def continued(recipe: Recipe, start: VersionFacts) -> Recipe:
    """The recipe with the version's own adaptation, where it is known; numbers of it are not chosen anew by `auto`.

    Raises:
        WrongState: ADAPTATION_DIFFERS where another adaptation, or another setting of it, is asked for.
    """
    own = start.adaptation
    if own is None:
        return recipe
    values = recipe.model_dump(exclude_unset=True)
    if "adaptation" in recipe.model_fields_set:
        _refuse_another(recipe.adaptation, own, start.name)
    values["adaptation"] = own.model_dump()
    values["auto"] = [path for path in recipe.auto if not path.startswith(f"{own.kind}.")]
    return Recipe.model_validate(values)


def _refuse_another(wanted: Adaptation, own: Adaptation, version: str) -> None:
    if wanted.kind != own.kind:
        message = f"{version} was made by `{own.kind}`; it cannot be trained on as `{wanted.kind}`."
        raise _refusal(message, {"from_model_version": message}, found=own.kind, wanted=wanted.kind)
    differing = dict(_differing(wanted, own, f"{own.kind}."))
    if differing:
        message = f"{version} was made with other settings, which its adapter keeps: {'; '.join(differing.values())}."
        raise _refusal(message, differing, found=own.kind, wanted=", ".join(differing))


def _differing(wanted: BaseModel, own: BaseModel, path: str) -> Iterator[tuple[str, str]]:
    """What was asked for by name and is not so, as its path and what it is."""
    for name in sorted(wanted.model_fields_set):
        asked, found = getattr(wanted, name), getattr(own, name)
        if isinstance(asked, BaseModel):
            yield from _differing(asked, found, f"{path}{name}.")
        elif asked != found:
            yield path + name, f"{name} is {found}, not {asked}"


def _refusal(message: str, fields: dict[str, str], *, found: str, wanted: str) -> WrongState:
    return WrongState(
        "ADAPTATION_DIFFERS",
        message,
        advice=["Leave the adaptation and its settings to the version, or start from the base model."],
        fields=[FieldViolation(f"{PATH}.{name}", why, "ADAPTATION_DIFFERS") for name, why in fields.items()],
        found=found,
        wanted=wanted,
    )
