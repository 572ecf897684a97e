"""What frozen layers make of a row is computed once, and nothing but the time tells whether it was kept."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from feinschliff.formats.manifest import Manifest
from feinschliff.formats.recipe import Recipe
from feinschliff.formats.report import Notice, Report
from feinschliff.lm.adaptations import ADAPTATIONS
from feinschliff.lm.adaptations.last_layers import layers_of
from feinschliff.lm.chat import Chat
from feinschliff.lm.flat import flatten, hidden_states
from feinschliff.lm.load import load_model, load_tokenizer
from feinschliff.lm.rows_attention import rows_apart
from feinschliff.trainer import features
from feinschliff.trainer.features import Features, frozen_layers
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.order import Course, Source
from tests.support import attempts
from tests.support.trainer import JOB, Workshop, rows

TWO_EPOCHS = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "warmup_fraction": 0.0, "schedule": "constant"}
LAST = {"adaptation": {"kind": "last_layers", "layers": 1}}
HEAD = {"adaptation": {"kind": "last_layers", "layers": 0}, "objective": {"kind": "classify"}}


def workshop(folder: Path, base: Path, **recipe: object) -> Workshop:
    one = Workshop(folder, base, train=rows(18), validation=rows(4, first=50))
    one.recipe = {"optimisation": TWO_EPOCHS, "checkpointing": {"every_steps": 1000}, **LAST, **recipe}
    return one


def work(
    one: Workshop, *, attempt: int = 1, until_step: int = -1, mib_max: int = 64
) -> tuple[Manifest | None, list[Report]]:
    """One attempt in this process: its result, and what it told."""
    told = attempts.work(one, attempt=attempt, until_step=until_step, trainer_features_mib_max=mib_max)
    return one.result, told


def losses(one: Workshop) -> list[float]:
    text = one.store.get_bytes(f"{JOB}/result/metrics.csv").decode()
    return [float(line["train_loss"]) for line in csv.DictReader(io.StringIO(text))]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each row that ran through the frozen layers."""
    counts: list[int] = []
    plain = features.lower_states

    def counted(model: Any, stack: Any, layers: int, token_ids_T: torch.Tensor) -> torch.Tensor:
        counts.append(len(token_ids_T))
        return plain(model, stack, layers, token_ids_T)

    monkeypatch.setattr(features, "lower_states", counted)
    return counts


@pytest.mark.parametrize("recipe", [LAST, HEAD], ids=["last_layers", "head"])
def test_kept_or_not_and_interrupted_or_not_the_result_has_the_same_bytes(
    tmp_path: Path, tiny_model: Path, computed: list[int], recipe: dict[str, object]
) -> None:
    kept, _ = work(workshop(tmp_path / "kept", tiny_model, **recipe))
    # 18 training rows, 4 validation rows and the row of both proofs.
    assert len(computed) == 18 + 4 + 2
    computed.clear()
    again, _ = work(workshop(tmp_path / "again", tiny_model, **recipe), mib_max=0)
    assert len(computed) == 2 * (18 + 4) + 2
    cut = workshop(tmp_path / "cut", tiny_model, **recipe)
    work(cut, until_step=7)
    resumed, _ = work(cut, attempt=2)

    assert kept is not None
    assert again is not None
    assert resumed is not None
    assert kept.files == again.files == resumed.files


@pytest.mark.parametrize("recipe", [LAST, HEAD], ids=["last_layers", "head"])
def test_losses_are_those_of_whole_batches_through_all_layers(
    tmp_path: Path, tiny_model: Path, computed: list[int], recipe: dict[str, object]
) -> None:
    kept = workshop(tmp_path / "kept", tiny_model, **recipe)
    work(kept)
    computed.clear()
    plain = workshop(tmp_path / "plain", tiny_model, **recipe, optimisation={**TWO_EPOCHS, "epochs": 1})
    work(plain)

    assert not computed
    assert losses(kept)[:5] == pytest.approx(losses(plain), abs=1e-5)
    assert losses(kept)[-1] < losses(kept)[0]


def test_the_job_says_that_states_are_kept(tmp_path: Path, tiny_model: Path) -> None:
    _, told = work(workshop(tmp_path, tiny_model))
    assert [one.message for one in told if isinstance(one, Notice) and one.key == "frozen_layers"] == [
        "The lowest 1 layers are frozen: what they make of a row is computed once and kept on disk."
    ]


def batch_of(base: Path) -> Any:
    return flatten(Chat.of(load_tokenizer(base)).encode(rows(5), loss_on="all_assistant_turns"))


def test_rows_beyond_the_room_are_computed_each_time(tmp_path: Path, tiny_model: Path, computed: list[int]) -> None:
    model, batch = load_model(tiny_model, precision="bf16"), batch_of(tiny_model)
    row_bytes = [2 * 64 * (stop - start) for start, stop in zip(batch.runs.bounds, batch.runs.bounds[1:], strict=False)]
    some = Features(model, 1, tmp_path, bytes_max=sum(row_bytes[:2]))

    with rows_apart(model), torch.no_grad():
        first, second = some(batch), some(batch)
        expected = hidden_states(model, batch)
        states = hidden_states(model, second)

    assert some.rows_kept == 2
    assert len(computed) == 5 + 3
    assert torch.equal(first.below.states_TH, second.below.states_TH)
    assert (tmp_path / "features").stat().st_size == sum(row_bytes[:2])
    torch.testing.assert_close(states, expected, rtol=2e-2, atol=2e-2)


def test_a_full_disk_only_ends_the_keeping(
    tmp_path: Path, tiny_model: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    model, batch = load_model(tiny_model, precision="fp32"), batch_of(tiny_model)
    some = Features(model, 1, tmp_path, bytes_max=1 << 20)
    monkeypatch.setattr(features.os, "pwrite", full)

    with rows_apart(model):
        states = [some(batch).below.states_TH for _ in range(2)]

    assert some.rows_kept == 0
    assert torch.equal(*states)


def course(epochs: float = 2.0) -> Course:
    recipe = recipe_of({"kind": "lora"}, epochs=epochs)
    return Course.of([Source(0, 8, 1.0)], recipe.optimisation, seed=0)


def recipe_of(adaptation: dict[str, object], **optimisation: object) -> Recipe:
    return Recipe.model_validate(
        {
            "base_model": "file:x",
            "data": [{"dataset_version": "d"}],
            "adaptation": adaptation,
            "optimisation": {"epochs": 2, "batch_size": 4, **optimisation},
        }
    )


def layers_kept(base: Path, recipe: Recipe, epochs: float = 2.0) -> int:
    adapt = ADAPTATIONS[recipe.adaptation.kind]
    model = load_model(base, precision="fp32")
    return frozen_layers(Learner(adapt, adapt.attach(model, recipe.adaptation, seed=0)), recipe, course(epochs))


def test_layers_below_the_lowest_that_learns_are_frozen(tiny_model: Path) -> None:
    assert layers_kept(tiny_model, recipe_of({"kind": "last_layers", "layers": 1})) == 1
    assert layers_kept(tiny_model, recipe_of({"kind": "last_layers", "layers": 0})) == 2


@pytest.mark.parametrize(
    ("recipe", "epochs"),
    [
        (recipe_of({"kind": "last_layers", "layers": 2}), 2.0),
        (recipe_of({"kind": "lora"}), 2.0),
        (recipe_of({"kind": "full"}), 2.0),
        (recipe_of({"kind": "last_layers", "layers": 1}), 1.0),
        (recipe_of({"kind": "last_layers", "layers": 1}, neftune_alpha=5.0), 2.0),
        (recipe_of({"kind": "last_layers", "layers": 1}).model_copy(update={"sharing": "sharded"}), 2.0),
    ],
    ids=["all layers learn", "adapters everywhere", "full", "one pass", "noise on the embeddings", "shared weights"],
)
def test_nothing_is_kept_where_it_would_be_useless_or_wrong(tiny_model: Path, recipe: Recipe, epochs: float) -> None:
    assert layers_kept(tiny_model, recipe, epochs) == 0


def test_layers_that_draw_random_numbers_are_not_kept(tiny_model: Path) -> None:
    recipe, adapt = recipe_of({"kind": "last_layers", "layers": 1}), ADAPTATIONS["last_layers"]
    model = load_model(tiny_model, precision="fp32")
    layers_of(model)[0].self_attn.attention_dropout = 0.1
    learner = Learner(adapt, adapt.attach(model, recipe.adaptation, seed=0))
    assert frozen_layers(learner, recipe, course()) == 0


@pytest.mark.parametrize("where", ["embeddings", "inside"])
def test_a_dropout_of_any_kind_below_is_noticed(tiny_model: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, adapt = recipe_of({"kind": "last_layers", "layers": 1}), ADAPTATIONS["last_layers"]
    model = load_model(tiny_model, precision="fp32")
    dropping = model.get_input_embeddings() if where == "embeddings" else layers_of(model)[0].mlp
    plain = dropping.forward
    monkeypatch.setattr(
        dropping, "forward", lambda x: nn.functional.dropout(plain(x), 0.001, training=dropping.training)
    )
    learner = Learner(adapt, adapt.attach(model, recipe.adaptation, seed=0))
    assert frozen_layers(learner, recipe, course()) == 0
    assert not model.training


def test_layers_that_cannot_be_run_apart_are_not_kept(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, adapt = recipe_of({"kind": "last_layers", "layers": 1}), ADAPTATIONS["last_layers"]
    model = load_model(tiny_model, precision="fp32")
    upper = layers_of(model)[1]
    plain = upper.forward

    def looking_down(states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A layer that uses what is no layer's output, as models with shared embeddings per layer do."""
        assert isinstance(layers_of(model)[0].self_attn, nn.Module)
        out: torch.Tensor = plain(states, *args, **kwargs)
        return out

    monkeypatch.setattr(upper, "forward", looking_down)
    learner = Learner(adapt, adapt.attach(model, recipe.adaptation, seed=0))
    assert frozen_layers(learner, recipe, course()) == 0
