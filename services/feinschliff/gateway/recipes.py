"""From a job's body to a training recipe, and back from a recipe to what OpenAI calls hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import JsonValue

from feinschliff.gateway.errors import ParamOf
from feinschliff.gateway.tuning import BASE_LEARNING_RATE, JobBody, Resolved
from feinschliff.v1 import training_pb2 as pb

_PARAMS: Mapping[str, str] = {
    "base_model": "model",
    "from_model_version": "model",
    "suffix": "suffix",
    "seed": "seed",
    "optimisation.epochs": "n_epochs",
    "optimisation.batch_size": "batch_size",
    "optimisation.learning_rate": "learning_rate_multiplier",
    "optimisation.max_row_tokens": "training_file",
    "labels": "metadata",
}
"""Paths in the recipe, or beside it in the job, by what they are in the body; hyperparameters by name alone."""


class Start(NamedTuple):
    """What a job starts from: a base by URI, or a model version; exactly one is set."""

    base_uri: str = ""
    model_version: str = ""


def to_recipe(
    body: JobBody, start: Start, hyper: Resolved, *, training: str, validation: str, seed: int
) -> pb.TrainingRecipe:
    """The recipe; `training` and `validation` are dataset versions, the second may be empty."""
    recipe = pb.TrainingRecipe(
        data=[pb.DataSource(dataset_version=training, validation_dataset_version=validation)],
        sft=pb.SftObjective(),
        optimisation=pb.Optimisation(
            epochs=hyper.n_epochs, batch_size=hyper.batch_size, learning_rate=hyper.learning_rate
        ),
        seed=seed,
        suffix=body.suffix or "",
    )
    if start.model_version:
        recipe.from_model_version = start.model_version
    else:
        recipe.base_model = start.base_uri
        recipe.lora.SetInParent()
    return recipe


def to_hyperparameters(recipe: pb.TrainingRecipe) -> dict[str, JsonValue]:
    """Whole epochs as an integer; the multiplier without the noise of binary fractions."""
    optimisation = recipe.optimisation
    epochs = optimisation.epochs
    return {
        "n_epochs": int(epochs) if epochs.is_integer() else epochs,
        "batch_size": optimisation.batch_size,
        "learning_rate_multiplier": float(f"{optimisation.learning_rate / BASE_LEARNING_RATE:.10g}"),
    }


def param_of(body: JobBody) -> ParamOf:
    """Paths in CreateTrainingJob as paths in this body: hyperparameters stand where the caller put them."""
    is_newer = body.method is not None and body.method.supervised is not None
    hyperparameters = "method.supervised.hyperparameters" if is_newer else "hyperparameters"

    def find(path: str) -> str | None:
        ours = path.removeprefix("training_job.").removeprefix("recipe.")
        if ours.startswith("data"):
            return "validation_file" if "validation_dataset_version" in ours else "training_file"
        param = next((param for known, param in _PARAMS.items() if ours.startswith(known)), None)
        return f"{hyperparameters}.{param}" if param in Resolved._fields else param

    return find
