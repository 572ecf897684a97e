"""A plan's memory goes the way that memory goes: more of what is more, less where something is frozen or made anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from feinschliff.artifacts.bases import DEFAULT_BASE
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.artifacts.outlines import outline
from feinschliff.formats.recipe import Recipe
from feinschliff.training.architecture import Architecture, architecture_of, trained_parameters
from feinschliff.training.memory import COMPONENTS, MIB, Load, Part, Site, parts

LOAD = Load(tokens=1500, row_tokens=250, labels=800, tokens_low=1200, tokens_high=2048, rows=1000, rows_tokens=200_000)
KINDS: list[dict[str, Any]] = [
    {"kind": kind}
    for kind in ("lora", "dora", "qlora", "full", "last_layers", "ia3", "bottleneck", "prompt", "p_tuning", "prefix")
]

GSM8K = Load(
    tokens=1631, row_tokens=466, labels=1074, tokens_low=1559, tokens_high=2048, pass_rows=8, rows=16, rows_tokens=3595
)
LONG = Load(
    tokens=1973, row_tokens=1223, labels=1279, tokens_low=1884, tokens_high=2048, pass_rows=2, passes=2, rows=8,
    rows_tokens=6864,
)  # fmt: skip
SMALL = Load(
    tokens=466, row_tokens=466, labels=369, tokens_low=372, tokens_high=466, passes=8, rows=16, rows_tokens=3595
)
FEW = Load(
    tokens=328, row_tokens=216, labels=193, tokens_low=317, tokens_high=392, pass_rows=2, rows=4, rows_tokens=670
)
APART = replace(GSM8K, tokens=1775, tokens_low=1703)
"""Rows that share nothing, as where the states of frozen layers are kept by row."""
TWICE, ONCE = {"gradient_checkpointing": True}, {"gradient_checkpointing": False}
MEASURED_MIB: list[tuple[int, Load, str, str, dict[str, Any]]] = [
    (2064, GSM8K, "bf16", "lora", {}),
    (3351, GSM8K, "fp32", "lora", {}),
    (2291, LONG, "bf16", "lora", {}),
    (1946, SMALL, "fp32", "lora", {}),
    (1221, GSM8K, "bf16", "lora", TWICE),
    (1500, GSM8K, "fp32", "lora", TWICE),
    (4366, GSM8K, "bf16", "dora", {}),
    (2956, GSM8K, "fp32", "ia3", {}),
    (1630, APART, "bf16", "last_layers", {}),
    (1214, GSM8K, "fp32", "qlora", {}),
    (3034, GSM8K, "fp32", "qlora", ONCE),
    (1669, GSM8K, "bf16", "prompt", {}),
    (2462, FEW, "fp32", "full", {}),
]
"""Peak resident memory of real trainers of SmolLM2-135M, see `tests/bench/training/README.md`."""


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Architecture:
    folder = tmp_path_factory.mktemp("outline")
    seen = outline(DEFAULT_BASE, DirectoryStore(folder), folder, offline=True, local=True)
    assert seen is not None
    return architecture_of(seen)


def of(base: Architecture, load: Load = LOAD, precision: Any = "bf16", **changes: Any) -> dict[str, Part]:
    data = [{"dataset_version": "projects/p/datasets/d/versions/1"}]
    recipe = Recipe.model_validate({"base_model": DEFAULT_BASE, "data": data, **changes})
    trained = trained_parameters(base, recipe)
    return {part.component: part for part in parts(base, recipe, load, Site(precision), trained=trained)}


def peak(found: dict[str, Part]) -> int:
    return sum(part.expected for part in found.values())


@pytest.mark.parametrize("adaptation", KINDS, ids=lambda one: str(one["kind"]))
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_every_part_is_told_with_its_range(smollm2: Architecture, adaptation: dict[str, Any], precision: str) -> None:
    found = of(smollm2, precision=precision, adaptation=adaptation)
    assert tuple(found) == COMPONENTS
    for part in found.values():
        assert 0 <= part.low <= part.expected <= part.high


@pytest.mark.parametrize(("mib", "load", "precision", "kind", "optimisation"), MEASURED_MIB)
def test_what_is_expected_stays_near_what_was_measured(
    smollm2: Architecture, mib: int, load: Load, precision: str, kind: str, optimisation: dict[str, Any]
) -> None:
    layers = {"layers": 2} if kind == "last_layers" else {}
    found = of(smollm2, load, precision, adaptation={"kind": kind, **layers}, optimisation=optimisation)
    assert peak(found) == pytest.approx(mib * MIB, rel=0.2)
    assert sum(part.low for part in found.values()) <= mib * MIB <= sum(part.high for part in found.values())


def test_more_tokens_need_more(smollm2: Architecture) -> None:
    once = replace(LOAD, passes=2)
    twice = replace(once, tokens=3000, tokens_low=2400, tokens_high=4096)
    assert of(smollm2, twice)["activations"].expected == pytest.approx(2 * of(smollm2, once)["activations"].expected)


def test_gradients_of_one_pass_come_as_activations_go(smollm2: Architecture) -> None:
    one = of(smollm2, precision="fp32", adaptation={"kind": "full"})
    several = of(smollm2, replace(LOAD, passes=2), precision="fp32", adaptation={"kind": "full"})
    assert several["gradients"].expected == one["gradients"].expected
    assert peak(several) > peak(one)


def test_activations_made_anew_are_not_kept(smollm2: Architecture) -> None:
    less = of(smollm2, optimisation={"gradient_checkpointing": True})
    assert less["activations"].expected < of(smollm2)["activations"].expected / 3


def test_below_the_lowest_layer_that_learns_nothing_is_kept(smollm2: Architecture) -> None:
    two = of(smollm2, adaptation={"kind": "last_layers", "layers": 2})
    four = of(smollm2, adaptation={"kind": "last_layers", "layers": 4})
    assert two["activations"].expected < four["activations"].expected < of(smollm2)["activations"].expected


def test_adam_remembers_two_numbers_a_weight_in_fp32_or_eight_bits(smollm2: Architecture) -> None:
    trained = 4_884_480
    assert of(smollm2)["optimiser"].expected == 8 * trained
    assert of(smollm2, optimisation={"optimiser": "adamw_8bit"})["optimiser"].expected == 2 * trained
    assert of(smollm2)["trained_weights"].expected == 4 * trained


def test_a_quantised_base_is_smaller(smollm2: Architecture) -> None:
    kept = {"gradient_checkpointing": False}  # so that a step is the peak for all, and not loading
    weights = [
        of(smollm2, precision="fp32", adaptation=one, optimisation=kept)["weights"].expected
        for one in (
            {"kind": "qlora", "double_quantisation": True},
            {"kind": "qlora"},
            {"kind": "qlora", "quantisation": "int8"},
            {"kind": "lora"},
        )
    ]
    assert weights == sorted(weights)
    assert weights[1] < weights[3] / 2


def test_a_full_training_needs_more_than_an_adapter(smollm2: Architecture) -> None:
    full = of(smollm2, precision="fp32", adaptation={"kind": "full"})
    assert peak(full) > peak(of(smollm2, precision="fp32")) + 8 * 100_000_000


def test_the_logits_of_a_large_vocabulary_are_bounded(smollm2: Architecture) -> None:
    many = of(smollm2, replace(LOAD, labels=100_000))["logits"].expected
    assert many < 500 * 1024**2
    classes = of(smollm2, objective={"kind": "classify", "labels": ["a", "b"]})
    assert classes["logits"].expected == 0
