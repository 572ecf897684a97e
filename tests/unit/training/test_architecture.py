"""What a plan counts from the shape of a base is what an adaptation really trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from feinschliff.artifacts.bases import DEFAULT_BASE
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.artifacts.outlines import outline
from feinschliff.formats.recipe import SERVED, Recipe
from feinschliff.lm.adaptations import ADAPTATIONS
from feinschliff.lm.load import load_model
from feinschliff.training.architecture import Architecture, architecture_of, trained_parameters

SETTINGS: list[dict[str, Any]] = [
    {"kind": "lora"},
    {"kind": "lora", "rank": 3, "target_modules": ["q_proj", "down_proj"]},
    {"kind": "dora", "lora": {"rank": 4}},
    {"kind": "full"},
    {"kind": "full", "train_embeddings": True},
    {"kind": "last_layers", "layers": 1},
    {"kind": "last_layers", "layers": 2, "train_head": False},
    {"kind": "last_layers", "layers": 0},
    {"kind": "ia3"},
    {"kind": "ia3", "target_modules": ["q_proj", "up_proj"]},
    {"kind": "qlora", "lora": {"rank": 4}},
    {"kind": "bottleneck", "width": 5},
    {"kind": "bottleneck", "width": 5, "placement": "houlsby"},
    {"kind": "prompt", "virtual_tokens": 7},
    {"kind": "p_tuning", "virtual_tokens": 7, "encoder_width": 11},
    {"kind": "prefix", "virtual_tokens": 7},
    {"kind": "prefix", "virtual_tokens": 7, "projection_width": 11},
]


def recipe(**changes: Any) -> Recipe:
    data = [{"dataset_version": "projects/p/datasets/d/versions/1"}]
    return Recipe.model_validate({"base_model": "file:/tiny", "data": data, **changes})


@pytest.fixture
def tiny(tiny_model: Path, tmp_path: Path) -> Architecture:
    seen = outline(f"file:{tiny_model}", DirectoryStore(tmp_path), tmp_path, offline=True, local=True)
    assert seen is not None
    return architecture_of(seen)


def test_parameters_of_the_tiny_model_are_those_that_are_loaded(tiny: Architecture, tiny_model: Path) -> None:
    model = load_model(tiny_model, precision="fp32")
    assert tiny.total_parameters == sum(weight.numel() for weight in model.parameters())
    assert (tiny.layers, tiny.queries, tiny.keys, tiny.vocabulary, tiny.tied) == (2, 64, 32, 512, True)
    assert tiny.embedding_parameters + sum(tiny.layer_parameters) + tiny.norm_parameters == tiny.total_parameters


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: "-".join(str(value) for value in one.values()))
def test_trained_weights_are_counted_as_they_are_attached(
    tiny: Architecture, tiny_model: Path, settings: dict[str, Any]
) -> None:
    wanted = recipe(adaptation=settings)
    adaptation = ADAPTATIONS[settings["kind"]]
    adapted = adaptation.attach(load_model(tiny_model, precision="fp32"), wanted.adaptation, seed=0)
    attached = sum(weight.numel() for weight in adaptation.trained(adapted).values())
    assert trained_parameters(tiny, wanted) == attached


def test_every_served_adaptation_is_counted() -> None:
    served = {name for names in SERVED.values() for name in names}
    assert served <= {str(one["kind"]) for one in SETTINGS}


def test_a_gguf_has_the_architecture_of_its_model(tmp_path: Path) -> None:
    seen = outline(DEFAULT_BASE, DirectoryStore(tmp_path), tmp_path, offline=True, local=True)
    assert seen is not None
    smollm2 = architecture_of(seen)
    assert (smollm2.total_parameters, smollm2.layers, smollm2.hidden, smollm2.inner) == (134_515_008, 30, 576, 1536)
    assert (smollm2.vocabulary, smollm2.tied, smollm2.context_tokens) == (49_152, True, 8192)
    assert len(smollm2.linear) == 7 * 30
    assert trained_parameters(smollm2, recipe()) == 4_884_480


def test_a_head_over_texts_takes_the_place_of_the_one_over_tokens(tiny: Architecture) -> None:
    chosen = {"kind": "classify", "labels": ["a", "b", "c"]}
    head_alone = recipe(objective=chosen, adaptation={"kind": "last_layers", "layers": 0})
    assert trained_parameters(tiny, head_alone) == 3 * 64
    unnamed = recipe(objective={"kind": "classify"}, adaptation={"kind": "last_layers", "layers": 0})
    assert trained_parameters(tiny, unnamed, classes=5) == 5 * 64
    number = recipe(objective={"kind": "regress"}, adaptation={"kind": "last_layers", "layers": 0})
    assert trained_parameters(tiny, number) == 64
