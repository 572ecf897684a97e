"""Scores of labels equal those from the full logits, without the full logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, CohereConfig, PreTrainedModel

from feinschliff.kit.errors import Invalid
from feinschliff.lm import logprobs
from feinschliff.lm.logprobs import prove_plain_head, score_states


def head(*, trains: bool) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(16, 50, bias=False).requires_grad_(trains)


def states(rows: int = 23) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(rows, 16, requires_grad=True), torch.randint(50, (rows,))


def reference(states_NH: Tensor, labels_N: Tensor, weight: Tensor) -> Tensor:
    return torch.log_softmax(states_NH @ weight.T, dim=-1).gather(1, labels_N[:, None])[:, 0]


@pytest.mark.parametrize("trains", [False, True], ids=["frozen head", "training head"])
@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_scores_and_gradients_equal_those_of_full_logits(
    trains: bool, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", chunk_rows * 4 * 50)
    projection, (states_NH, labels_N) = head(trains=trains), states()
    weights_N = torch.linspace(-1, 2, len(labels_N))

    scores = score_states(states_NH, labels_N, projection)
    (scores.logprobs_N * weights_N).sum().backward()
    gradient, states_NH.grad = states_NH.grad, None
    head_gradient, projection.weight.grad = projection.weight.grad, None
    expected = reference(states_NH, labels_N, projection.weight)
    (expected * weights_N).sum().backward()

    torch.testing.assert_close(scores.logprobs_N, expected)
    torch.testing.assert_close(gradient, states_NH.grad)
    if trains:
        torch.testing.assert_close(head_gradient, projection.weight.grad)


def test_the_likeliest_token_is_a_hit() -> None:
    projection, (states_NH, _) = head(trains=False), states()
    likeliest = (states_NH @ projection.weight.T).argmax(dim=-1)
    labels = torch.where(torch.arange(len(likeliest)) % 2 == 0, likeliest, (likeliest + 1) % 50)

    assert score_states(states_NH, labels, projection).is_top_N.tolist() == [k % 2 == 0 for k in range(len(labels))]


def test_nothing_is_kept_for_a_backward_pass_that_never_comes() -> None:
    projection, (states_NH, labels_N) = head(trains=False), states()

    with torch.no_grad():
        scores = score_states(states_NH, labels_N, projection)

    assert scores.logprobs_N.grad_fn is None


def test_a_model_whose_logits_are_its_head_is_accepted(model: PreTrainedModel) -> None:
    prove_plain_head(model)


def test_a_model_that_scales_its_logits_is_refused() -> None:
    torch.manual_seed(0)
    scaled = AutoModelForCausalLM.from_config(
        CohereConfig(
            vocab_size=128,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            logit_scale=0.25,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )

    with pytest.raises(Invalid, match="changes its logits"):
        prove_plain_head(scaled)


@pytest.mark.parametrize("trains", [False, True], ids=["frozen head", "training head"])
@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_smoothed_labels_have_the_loss_and_gradients_of_torch(
    trains: bool, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", 7 * 4 * 50)
    projection, (states_NH, labels_N) = head(trains=trains), states()

    scores = score_states(states_NH, labels_N, projection, smoothing=smoothing)
    (-scores.logprobs_N.mean()).backward()
    gradient, states_NH.grad = states_NH.grad, None
    head_gradient, projection.weight.grad = projection.weight.grad, None
    expected = nn.functional.cross_entropy(states_NH @ projection.weight.T, labels_N, label_smoothing=smoothing)
    expected.backward()

    torch.testing.assert_close(-scores.logprobs_N.mean(), expected)
    torch.testing.assert_close(gradient, states_NH.grad)
    if trains:
        torch.testing.assert_close(head_gradient, projection.weight.grad)
    assert torch.equal(scores.is_top_N, score_states(states_NH, labels_N, projection).is_top_N)
