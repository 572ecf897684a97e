"""A job asks for no more processes than its profile has, and shares weights only where that works."""

from __future__ import annotations

from typing import Any

import pytest

from feinschliff.formats.recipe import Recipe
from feinschliff.kit.errors import Invalid
from feinschliff.training.crews import placed
from feinschliff.workloads.profiles import Profile

CPU = Profile(name="cpu", processes_max=4, nodes_max=2)
FULL = {"adaptation": {"kind": "full"}, "processes_per_node": 2, "sharing": "sharded"}


def recipe(**values: Any) -> Recipe:
    return Recipe.model_validate({"base_model": "file:x", "data": [{"dataset_version": "d"}], **values})


@pytest.mark.parametrize(
    ("profile", "limit"),
    [
        (Profile(name="small"), 1),
        (Profile(name="gpus", gpus=4), 4),
        (Profile(name="many", gpus=64), 16),
        (Profile(name="half", gpus=4, processes_max=2), 2),
    ],
)
def test_a_machine_has_a_process_for_each_gpu(profile: Profile, limit: int) -> None:
    assert profile.processes_limit == limit
    assert placed(recipe(), profile).processes_per_node == limit
    assert placed(recipe(processes_per_node=1), profile).processes_per_node == 1, "said aloud"


def test_a_profile_that_allows_more_processes_still_gives_each_gpu_one() -> None:
    profile = Profile(name="wide", gpus=4, processes_max=16)

    assert placed(recipe(), profile).processes_per_node == 4
    assert placed(recipe(processes_per_node=16), profile).processes_per_node == 16


def test_without_gpus_nobody_gets_processes_that_were_not_asked_for() -> None:
    assert placed(recipe(), CPU).processes_per_node == 1
    assert placed(recipe(processes_per_node=4, nodes=2), CPU).processes_per_node == 4


@pytest.mark.parametrize(
    ("field", "asked", "reason"),
    [("nodes", 3, "NODES_TOO_MANY"), ("processes_per_node", 5, "PROCESSES_TOO_MANY")],
)
def test_more_than_the_profile_gives_is_refused_by_its_field(field: str, asked: int, reason: str) -> None:
    with pytest.raises(Invalid) as refused:
        placed(recipe(**{field: asked}), CPU)

    assert refused.value.reason == reason
    assert refused.value.fields[0].field == f"training_job.recipe.{field}"
    assert refused.value.metadata["limit"] == str(asked - 1)


def test_a_fully_trained_model_can_be_cut() -> None:
    assert placed(recipe(**FULL), CPU).sharing == "sharded"


@pytest.mark.parametrize(
    "change",
    [
        {"adaptation": {"kind": "lora"}},
        {"adaptation": {"kind": "full", "train_embeddings": True}},
        {"processes_per_node": 1},
        {"update_schedule": {"half_fine_tuning": {}}},
        {"optimisation": {"optimiser": "adamw_8bit"}},
    ],
)
def test_what_does_not_go_with_cut_weights_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        placed(recipe(**(FULL | change)), CPU)

    assert refused.value.reason == "SHARING_UNSUITED"
    assert refused.value.fields[0].field == "training_job.recipe.sharing"
