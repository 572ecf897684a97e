"""Adapters that start from what rounding the base took away (QERA-exact, Zhang et al. 2024, arXiv:2410.06040).

With W the weight, Q what it was rounded to, s the adapter's scale and x a layer's inputs, s B A is the matrix of the
adapter's rank that makes the mean of |(W - Q) x - s B A x|^2 least. With L L' = mean(x x') and the singular value
decomposition (W - Q) L ~ U S V' to the rank:

    s B A = U S V' L^-1

The inputs are those of some rows of the job, taken through the layers below as they are corrected already, in one pass.
Each row of A gets the length that a random one has, so that the rates of plain LoRA go on to hold; B takes the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from feinschliff.lm.adaptations.lora_start import Start, lora_layers, put
from feinschliff.lm.adaptations.peft_files import TRAINED, transformer
from feinschliff.lm.flat import FlatBatch, hidden_states
from feinschliff.lm.rows_attention import rows_apart

if TYPE_CHECKING:
    from peft import PeftModel

    from feinschliff.lm.adaptations.pefts import LoraLinear

DAMPING = 0.01
"""Share of the mean of the diagonal that is added to it: fewer inputs than their width leave directions unseen."""

SILENCE = 1e-12
"""Mean square of inputs below which a layer's count as this much."""

OVERSAMPLING, POWER_ITERATIONS = 16, 4
ROW_LENGTH = 3**-0.5
"""Of a row of A as PEFT draws it: evenly from +-1 / sqrt(in)."""


@torch.no_grad()
def start_from_rounding(
    model: PeftModel,
    weight_of: Callable[[str], Tensor],
    batch: FlatBatch,
    *,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Give each adapter of a quantised base its start.

    Args:
        weight_of: a layer's weight before it was rounded, (O, I) in fp32, by its name in the base.
        batch: rows whose inputs count.
        check: called before each layer; may raise to end the work.
    """
    hooks = []
    for name, layer in lora_layers(model):

        def begin(layer: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            check()
            _begin(cast("LoraLinear", layer), weight_of(name), inputs[0])

        hooks.append(layer.register_forward_pre_hook(begin))
    was_training, base = model.training, transformer(model)
    try:
        with torch.random.fork_rng(devices=[]), rows_apart(base):
            torch.manual_seed(seed)
            model.train(False)
            hidden_states(base, batch)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()


def best(lost_OI: Tensor, x_TI: Tensor, rank: int, scale: float) -> Start:
    """A and B for what rounding took, `W - Q`; of a lower rank where the layer is narrower than `rank`."""
    moment_II = x_TI.T @ x_TI / len(x_TI)
    damping = DAMPING * moment_II.diagonal().mean().clamp(min=SILENCE)
    root_II = torch.linalg.cholesky(moment_II + damping * torch.eye(len(moment_II), device=x_TI.device))
    rank = min(rank, *lost_OI.shape)
    size = min(rank + OVERSAMPLING, *lost_OI.shape)
    u_OK, values_K, v_IK = torch.svd_lowrank(lost_OI @ root_II, q=size, niter=POWER_ITERATIONS)
    a_RI = torch.linalg.solve_triangular(root_II, v_IK[:, :rank].T, upper=False, left=False)
    growth_R = ROW_LENGTH / a_RI.norm(dim=1)
    return Start(a_RI * growth_R[:, None], u_OK[:, :rank] * (values_K[:rank] / (scale * growth_R)))


def _begin(layer: LoraLinear, weight_OI: Tensor, x: Tensor) -> None:
    lost_OI = weight_OI - cast(Tensor, layer.get_base_layer().weight).float()
    rank = layer.r[TRAINED]
    a_RI, b_OR = best(lost_OI, x.reshape(-1, x.shape[-1]).float(), rank, layer.scaling[TRAINED])
    missing = rank - len(a_RI)
    if missing:
        a_RI = torch.cat([a_RI, cast(Tensor, layer.lora_A[TRAINED].weight)[-missing:].detach()])
        b_OR = torch.cat([b_OR, b_OR.new_zeros(len(b_OR), missing)], dim=1)
    put(layer, Start(a_RI, b_OR))
