"""Log-probabilities of the labels alone: logits exist only at label positions, a chunk at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from feinschliff.kit.errors import Invalid
from feinschliff.lm.flat import FlatBatch, hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_BYTES = 32 * 1024 * 1024
"""fp32 logits held at once; about 170 positions of a vocabulary of 49,152."""

PROOF_TOLERANCE = 6e-2


class LabelScores(NamedTuple):
    """For each of N labels: its natural log-probability, and whether it was the likeliest token.

    With smoothing e the first is the expectation of log p under (1 - e) of the label and e of the whole vocabulary
    evenly (Szegedy et al. 2016, arXiv:1512.00567), as torch's cross entropy has it.
    """

    logprobs_N: Tensor
    is_top_N: Tensor


def score_labels(model: PreTrainedModel, batch: FlatBatch, *, smoothing: float = 0.0) -> LabelScores:
    """Score a batch's labels; call inside `rows_apart(model)`.

    The (tokens x vocabulary) matrix never exists: hidden states are taken at label positions and projected chunk by
    chunk. While the head is frozen, its input gradient is computed with the logits, so nothing is computed twice.
    """
    states_NH = hidden_states(model, batch).index_select(0, batch.label_positions_N)
    return score_states(states_NH, batch.labels_N, head_of(model), smoothing=smoothing)


def score_states(states_NH: Tensor, labels_N: Tensor, head: nn.Module, *, smoothing: float = 0.0) -> LabelScores:
    """log p(label | state) through `head`, in fp32 after the projection.

    Args:
        smoothing: share of each label that is spread over the vocabulary, 0 to below 1.
    """
    if _is_frozen_linear(head):
        return LabelScores(*_FrozenHead.apply(states_NH, labels_N, head.weight, smoothing))  # type: ignore[no-untyped-call]
    rows = _chunk_rows(int(getattr(head, "out_features", 0)) or 65_536)
    chunks = [
        checkpoint(_through_head, states, labels, head, smoothing, use_reentrant=False)
        for states, labels in zip(torch.split(states_NH, rows), torch.split(labels_N, rows), strict=True)
    ]
    return LabelScores(torch.cat([chunk[0] for chunk in chunks]), torch.cat([chunk[1] for chunk in chunks]))


def head_of(model: PreTrainedModel) -> nn.Module:
    """The projection to the vocabulary.

    Raises:
        Invalid: ARCHITECTURE_UNSUPPORTED when the base has none.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Module):
        raise Invalid(
            "ARCHITECTURE_UNSUPPORTED", "This base has no projection to a vocabulary, so it predicts no text."
        )
    return head


def prove_plain_head(model: PreTrainedModel) -> None:
    """Show that the model's logits are its head applied to its last hidden state, and nothing else (no scale, no cap).

    Raises:
        Invalid: ARCHITECTURE_UNSUPPORTED.
    """
    token_ids = torch.arange(3, 9, device=model.device)[None] % int(model.config.get_text_config().vocab_size)
    with torch.no_grad():
        logits = model(input_ids=token_ids, use_cache=False).logits.float()
        ours = head_of(model)(model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state).float()
    difference = float((logits - ours).abs().max() / logits.abs().max())
    if not difference <= PROOF_TOLERANCE:
        raise Invalid(
            "ARCHITECTURE_UNSUPPORTED",
            f"This base changes its logits after the projection (by {difference:.1e}), which is not supported yet.",
        )


class _FrozenHead(torch.autograd.Function):
    """log p and its gradient to the states in one pass over the vocabulary.

    d log p(y) / d state = W[y] - softmax(W state) W; with smoothing, the mean of that over the smoothed label, which
    has weight 1 in all. It is kept for a unit gradient and scaled in the backward pass, which is exact because each
    label's gradient is one number.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        states_NH: Tensor,
        labels_N: Tensor,
        weight_VH: Tensor,
        smoothing: float,
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        logprobs_N = torch.empty(len(labels_N), dtype=torch.float32, device=states_NH.device)
        is_top_N = torch.empty(len(labels_N), dtype=torch.bool, device=states_NH.device)
        gradient_NH = torch.empty_like(states_NH) if wanted else None
        rows = _chunk_rows(len(weight_VH))
        for start in range(0, len(labels_N), rows):
            part = slice(start, start + rows)
            label_C1 = labels_N[part, None]
            logp_CV = torch.log_softmax((states_NH[part] @ weight_VH.T).float(), dim=-1)
            chosen_C1 = logp_CV.gather(1, label_C1)
            logprobs_N[part] = _smoothed(chosen_C1[:, 0], logp_CV, smoothing)
            is_top_N[part] = chosen_C1[:, 0] >= logp_CV.amax(dim=-1)
            if gradient_NH is not None:
                pull_CV = logp_CV.exp_().neg_()
                if smoothing:
                    pull_CV += smoothing / len(weight_VH)
                pull_CV[torch.arange(len(label_C1), device=pull_CV.device), label_C1[:, 0]] += 1 - smoothing
                gradient_NH[part] = pull_CV.to(weight_VH.dtype) @ weight_VH
        ctx.mark_non_differentiable(is_top_N)
        if gradient_NH is not None:
            ctx.save_for_backward(gradient_NH)
        return logprobs_N, is_top_N

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, logprobs_grad_N: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None, None]:
        (gradient_NH,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return (gradient_NH * logprobs_grad_N[:, None]).to(gradient_NH.dtype), None, None, None


def _through_head(states_CH: Tensor, labels_C: Tensor, head: nn.Module, smoothing: float) -> tuple[Tensor, Tensor]:
    logp_CV = torch.log_softmax(head(states_CH).float(), dim=-1)
    chosen_C = logp_CV.gather(1, labels_C[:, None])[:, 0]
    is_top_C = chosen_C.detach() >= logp_CV.detach().amax(dim=-1)
    return _smoothed(chosen_C, logp_CV, smoothing), is_top_C


def _smoothed(chosen_C: Tensor, logp_CV: Tensor, smoothing: float) -> Tensor:
    return (1 - smoothing) * chosen_C + smoothing * logp_CV.mean(dim=-1) if smoothing else chosen_C


def _is_frozen_linear(head: nn.Module) -> bool:
    return type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad


def _chunk_rows(vocabulary: int) -> int:
    return max(1, CHUNK_BYTES // (4 * vocabulary))
