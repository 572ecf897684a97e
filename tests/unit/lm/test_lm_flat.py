"""Rows side by side learn exactly what they learn alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from feinschliff.kit.errors import Invalid
from feinschliff.lm import rows_attention
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import flatten, hidden_states, prove_rows_apart
from feinschliff.lm.logprobs import score_labels
from feinschliff.lm.rows_attention import rows_apart
from feinschliff.lm.shared_prefixes import Runs

SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def row(seed: int, tokens: int) -> Encoded:
    dice = random.Random(seed)
    return Encoded([dice.randrange(3, 100) for _ in range(tokens)], [k > tokens // 2 for k in range(tokens)])


def small(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(7)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    made.train(False)
    return made


def loss_and_gradients(model: PreTrainedModel, batches: list[list[Encoded]]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    total = 0.0
    with rows_apart(model):
        for rows in batches:
            loss = -score_labels(model, flatten(rows)).logprobs_N.sum()
            loss.backward()
            total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def loss_of_one(model: PreTrainedModel, one: Encoded) -> Tensor:
    """Cross entropy as transformers computes it, one row in a batch of its own."""
    ids = torch.tensor([one.token_ids])
    labels = torch.where(torch.tensor([one.is_answer]), ids, torch.tensor(-100))
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum", ignore_index=-100)


def test_a_flat_batch_gives_the_loss_and_gradients_of_its_rows_one_by_one(model: PreTrainedModel) -> None:
    rows = [row(seed, tokens) for seed, tokens in enumerate((9, 30, 2, 17, 64))]
    model.requires_grad_(True)

    loss, gradients = loss_and_gradients(model, [rows])
    model.zero_grad()
    alone = sum(loss_of_one(model, one) for one in rows)
    assert isinstance(alone, Tensor)
    alone.backward()

    assert loss == pytest.approx(alone.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_splitting_a_batch_changes_neither_loss_nor_gradients(model: PreTrainedModel) -> None:
    rows = [row(seed, 10 + 3 * seed) for seed in range(6)]
    model.requires_grad_(True)

    whole, gradients = loss_and_gradients(model, [rows])
    parts, sums = loss_and_gradients(model, [rows[:1], rows[1:4], rows[4:]])

    assert whole == pytest.approx(parts, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, sums[name], rtol=1e-4, atol=1e-4, msg=name)


def test_positions_restart_and_labels_stand_before_their_token() -> None:
    batch = flatten([Encoded([5, 6, 7], [False, True, True]), Encoded([8, 9], [False, True])])

    assert batch.token_ids_T.tolist() == [5, 6, 8]
    assert batch.position_ids_T.tolist() == [0, 1, 0]
    assert batch.runs == Runs((0, 2, 3), ((), ()))
    assert batch.label_positions_N.tolist() == [0, 1, 2]
    assert batch.labels_N.tolist() == [6, 7, 9]
    assert (batch.tokens, batch.labels) == (3, 3)


def test_products_in_bf16_equal_the_fused_kernel(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    halved, batch = model.to(torch.bfloat16), flatten([row(1, 40), row(2, 12)])
    with torch.no_grad(), rows_apart(halved):
        products = hidden_states(halved, batch).float()
        monkeypatch.setattr(rows_attention, "TILE_TOKENS_MAX", 0)
        rows_attention.tiles.cache_clear()
        fused = hidden_states(halved, batch).float()

    rows_attention.tiles.cache_clear()
    assert not torch.equal(products, fused), "both ways were taken"
    torch.testing.assert_close(products, fused, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**SMALL),
        MistralConfig(**SMALL, sliding_window=3),
        GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
    ],
    ids=lambda config: config.model_type,
)
def test_other_decoders_are_proved_too(config: PreTrainedConfig) -> None:
    other = small(config)

    prove_rows_apart(other)

    rows = [row(1, 9), row(2, 14)]
    with torch.no_grad(), rows_apart(other):
        loss = -score_labels(other, flatten(rows)).logprobs_N.sum()
    with torch.no_grad():
        alone = sum(loss_of_one(other, one) for one in rows)
    assert loss.item() == pytest.approx(float(alone), rel=1e-4)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (MambaConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, state_size=4), "cannot be exchanged"),
        (Gemma2Config(**SMALL, head_dim=8), "softcap"),
    ],
    ids=["mamba", "gemma2"],
)
def test_an_architecture_that_would_mix_rows_is_refused_by_name_of_the_cause(
    config: PreTrainedConfig, why: str
) -> None:
    with pytest.raises(Invalid, match=why) as refusal:
        prove_rows_apart(small(config))

    assert refusal.value.reason == "ARCHITECTURE_UNSUPPORTED"


def test_the_usual_attention_comes_back_afterwards(model: PreTrainedModel) -> None:
    usual = model.config._attn_implementation
    with pytest.raises(RuntimeError), rows_apart(model):
        raise RuntimeError

    assert model.config._attn_implementation == usual
