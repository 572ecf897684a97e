"""How many processes may train a job together, and on what: settled when the job is created."""

from __future__ import annotations

from feinschliff.formats.recipe import Recipe
from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.workloads.profiles import Profile

SHARDED = frozenset({"full"})
"""Adaptations whose weights can be cut among the processes; adapters are small, and whole in each of them."""

_PATH = "training_job.recipe"


def placed(recipe: Recipe, profile: Profile) -> Recipe:
    """The recipe with the number of processes that its profile gives where nobody asked for one: one for each GPU.

    Raises:
        Invalid: NODES_TOO_MANY, PROCESSES_TOO_MANY, SHARING_UNSUITED.
    """
    if "processes_per_node" not in recipe.model_fields_set and profile.gpus > 1:
        processes = min(profile.gpus, profile.processes_limit)
        recipe = recipe.model_copy(update={"processes_per_node": processes})
    _refuse_beyond("nodes", recipe.nodes, profile.nodes_max, "NODES_TOO_MANY", "machines", profile)
    here = recipe.processes_per_node
    _refuse_beyond(
        "processes_per_node", here, profile.processes_limit, "PROCESSES_TOO_MANY", "processes on a machine", profile
    )
    if recipe.sharing == "sharded":
        _refuse_unsuited_sharing(recipe)
    return recipe


def _refuse_beyond(field: str, asked: int, limit: int, reason: str, what: str, profile: Profile) -> None:
    if asked <= limit:
        return
    message = f"The execution profile {profile.name} gives a job at most {limit} {what}; {asked} are asked for."
    raise Invalid(
        reason,
        message,
        fields=[FieldViolation(f"{_PATH}.{field}", message, reason)],
        advice=[f"Ask for at most {limit}, or choose another execution profile."],
        asked=asked,
        limit=limit,
        execution_profile=profile.name,
    )


def _refuse_unsuited_sharing(recipe: Recipe) -> None:
    """Sharding is for whole weights that several processes train with the plain optimiser, all of the time."""
    kind = recipe.adaptation.kind
    schedule = recipe.update_schedule
    wrongs = {
        f"weights of `{kind}` are not cut; only those of `full` are": kind not in SHARDED,
        "one process has nobody to share with": recipe.nodes * recipe.processes_per_node == 1,
        "embeddings that train stay whole": getattr(recipe.adaptation, "train_embeddings", False),
        "an update schedule moves whole weights": bool(schedule.gradual_unfreezing or schedule.half_fine_tuning),
        "8-bit states are kept of whole weights": recipe.optimisation.optimiser != "adamw",
    }
    wrong = next((text for text, is_so in wrongs.items() if is_so), None)
    if wrong is None:
        return
    message = f"This recipe cannot be sharded: {wrong}."
    raise Invalid(
        "SHARING_UNSUITED",
        message,
        fields=[FieldViolation(f"{_PATH}.sharing", message, "SHARING_UNSUITED")],
        advice=["Leave `sharing` REPLICATED."],
    )
