"""Noise on embeddings: of the paper's size for each row's own length, and the same however a batch is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from feinschliff.formats.adaptations import Prompt
from feinschliff.lm.adaptations import ADAPTATIONS
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import FlatBatch, flatten, hidden_states
from feinschliff.lm.load import load_model
from feinschliff.lm.noise import embedding_noise, noise
from feinschliff.lm.rows_attention import rows_apart


def row(tokens: int, *, first: int = 10) -> Encoded:
    return Encoded([first + k for k in range(tokens)], [True] * tokens)


ROWS = [row(5), row(33, first=40), row(12, first=90)]


def states(model: PreTrainedModel, batch: FlatBatch, alpha: float, seed: int = 3) -> Tensor:
    with torch.no_grad(), rows_apart(model), embedding_noise(model, alpha, seed=seed):
        return hidden_states(model, batch)


def test_each_rows_noise_is_uniform_within_alpha_over_the_root_of_its_size() -> None:
    tokens, width, alpha = 900, 64, 5.0
    drawn = noise(torch.arange(tokens + 4), (0, 4, tokens + 4), width, alpha=alpha, seed=1)
    bound = alpha / (tokens * width) ** 0.5

    long = drawn[4:]
    assert 0.999 * bound < float(long.abs().max()) <= bound
    assert float(long.mean()) == pytest.approx(0, abs=0.02 * bound)
    assert float(long.std()) == pytest.approx(bound / 3**0.5, rel=0.01)
    assert float(drawn[:4].abs().max()) > 0.9 * alpha / (4 * width) ** 0.5


def test_it_goes_onto_the_embeddings_of_the_tokens(model: PreTrainedModel) -> None:
    batch = flatten(ROWS)
    embeddings = model.get_input_embeddings()
    expected = embeddings(batch.token_ids_T) + noise(batch.token_ids_T, batch.runs.bounds, 64, alpha=5, seed=3)
    with torch.no_grad(), rows_apart(model), embedding_noise(model, 5, seed=3):
        seen = embeddings_met(model, batch)

    torch.testing.assert_close(seen, expected)


def embeddings_met(model: PreTrainedModel, batch: FlatBatch) -> Tensor:
    met: list[Tensor] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: met.append(output[0]))
    hidden_states(model, batch)
    hook.remove()
    return met[0]


def test_no_alpha_changes_nothing_and_nothing_is_left_behind(model: PreTrainedModel) -> None:
    batch = flatten(ROWS)
    calm = states(model, batch, 0)

    assert not torch.equal(states(model, batch, 5), calm)
    assert torch.equal(states(model, batch, 0), calm)


def test_a_row_meets_the_same_noise_in_any_batch(model: PreTrainedModel) -> None:
    together = states(model, flatten(ROWS), 5)
    alone = torch.cat([states(model, flatten([one]), 5) for one in ROWS])

    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_another_step_brings_other_noise_and_the_same_step_the_same(model: PreTrainedModel) -> None:
    batch = flatten(ROWS)

    assert torch.equal(states(model, batch, 5, seed=3), states(model, batch, 5, seed=3))
    assert not torch.equal(states(model, batch, 5, seed=3), states(model, batch, 5, seed=4))


def test_the_programs_own_random_numbers_are_left_alone(model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    states(model, flatten(ROWS), 5)

    assert torch.equal(torch.rand(3), expected)


def test_bf16_embeddings_stay_bf16(tiny_model: Path) -> None:
    model = load_model(tiny_model, precision="bf16")

    assert states(model, flatten(ROWS), 5).dtype == torch.bfloat16


def test_learned_vectors_before_the_input_get_none(model: PreTrainedModel) -> None:
    adapt = ADAPTATIONS["prompt"]
    adapted = adapt.attach(model, Prompt(virtual_tokens=3), seed=0)
    batch = flatten(ROWS)
    transformer = adapt.transformer(adapted)
    with torch.no_grad(), rows_apart(transformer), embedding_noise(transformer, 5, seed=3):
        seen = embeddings_met(transformer, batch)

    expected = noise(batch.token_ids_T, batch.runs.bounds, 64, alpha=5, seed=3)
    with torch.no_grad():
        plain = transformer.get_input_embeddings()(batch.token_ids_T)
    torch.testing.assert_close(seen - plain, expected)
    assert states(transformer, batch, 5).shape == (batch.tokens, 64)
