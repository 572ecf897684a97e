"""Adapters that start from the base's own main directions instead of from nothing.

With W (out, in) and s the adapter's scale, B0 A0 is taken out of the base: a layer computes (W - s B0 A0) x + s B A x,
which is W x as long as A = A0 and B = B0.

- PiSSA (Meng et al. 2024, arXiv:2404.02948): W ~ U S V' to the rank; B0 = U sqrt(S / s), A0 = sqrt(S / s) V'.
- OLoRA (Büyükakyüz 2024, arXiv:2406.01775): W = Q R; B0 = the first columns of Q, A0 = the first rows of R. With a
  scale other than 1 what is taken out is not a part of W any more, as in PEFT.

What is saved is the difference s (B A - B0 A0) as a LoRA of twice the rank, [A; A0] and [B, -B0]: it fits the base as
it is, for every reader of PEFT's format, and the start is in it for whoever trains on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from feinschliff.formats.adaptations import Lora
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations.peft_files import TRAINED, WEIGHTS_NAME
from feinschliff.lm.adaptations.pefts import LoraConfig, LoraLinear, PeftModel
from feinschliff.lm.adaptations.saved import write_settings

POWER_ITERATIONS = 16
"""Of the randomised decomposition; the PiSSA paper's own choice, seconds instead of minutes."""

PREFIX = "base_model.model."


class Start(NamedTuple):
    a_RI: Tensor
    b_OR: Tensor


Starts = Mapping[str, Start]
"""By the layer's name in the base."""


def begin(model: PeftModel, kind: str, *, seed: int) -> Starts:
    """Give every fresh adapter its start and take that out of the base.

    Raises:
        Invalid: RANK_TOO_LARGE for a layer that is narrower than the rank.
    """
    starts: dict[str, Start] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, layer in lora_layers(model):
            _refuse_narrow(name, layer)
            weight_OI = _weight(layer).float()
            rank, scale = layer.r[TRAINED], layer.scaling[TRAINED]
            starts[name] = Start(*(part.contiguous() for part in DECOMPOSITIONS[kind](weight_OI, rank, scale)))
            put(layer, starts[name])
    take_out(model, starts)
    return starts


@torch.no_grad()
def take_out(model: PeftModel, starts: Starts) -> None:
    """W - s B0 A0 in fp32, rounded to the base's precision; equal starts give equal bits."""
    for name, layer in lora_layers(model):
        weight = _weight(layer)
        rest_OI = weight.float() - layer.scaling[TRAINED] * (starts[name].b_OR @ starts[name].a_RI)
        weight.copy_(rest_OI)


@torch.no_grad()
def put(layer: LoraLinear, now: Start) -> None:
    sides = _sides(layer)
    sides.a_RI.copy_(now.a_RI)
    sides.b_OR.copy_(now.b_OR)


def save_difference(model: PeftModel, starts: Starts, settings: Lora, folder: Path) -> None:
    """Write over the plain files in `folder`: twice the rank, the same scale."""
    config = model.peft_config[TRAINED]
    assert isinstance(config, LoraConfig)
    tensors: dict[str, Tensor] = {}
    for name, layer in lora_layers(model):
        a_RI, b_OR = _sides(layer)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.cat([a_RI, starts[name].a_RI]).contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.cat([b_OR, -starts[name].b_OR], dim=1).contiguous()
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    growth = 2**0.5 if config.use_rslora else 2
    alpha = cast(int, config.lora_alpha * growth)  # PEFT says int and takes any number
    doubled = replace(config, r=2 * config.r, lora_alpha=alpha, inference_mode=True)
    doubled.target_modules = sorted(config.target_modules or [])
    doubled.save_pretrained(str(folder))
    write_settings(folder, settings)


def read_difference(model: PeftModel, folder: Path) -> tuple[Starts, Starts]:
    """What the adapters are now, and their start."""
    tensors = load_file(folder / WEIGHTS_NAME)
    now, starts = {}, {}
    for name, layer in lora_layers(model):
        device = _weight(layer).device
        a_RI, first_a_RI = tensors[f"{PREFIX}{name}.lora_A.weight"].to(device).chunk(2, dim=0)
        b_OR, first_b_OR = tensors[f"{PREFIX}{name}.lora_B.weight"].to(device).chunk(2, dim=1)
        now[name] = Start(a_RI, b_OR)
        starts[name] = Start(first_a_RI.contiguous(), -first_b_OR.contiguous())
    return now, starts


def put_all(model: PeftModel, now: Starts) -> None:
    for name, layer in lora_layers(model):
        put(layer, now[name])


def pissa(weight_OI: Tensor, rank: int, scale: float) -> Start:
    u_OR, values_R, v_IR = torch.svd_lowrank(weight_OI, q=rank, niter=POWER_ITERATIONS)
    root_R = (values_R / scale).sqrt()
    return Start(root_R[:, None] * v_IR.T, u_OR * root_R)


def olora(weight_OI: Tensor, rank: int, scale: float) -> Start:
    q_OK, r_KI = torch.linalg.qr(weight_OI)
    return Start(r_KI[:rank], q_OK[:, :rank])


DECOMPOSITIONS: Mapping[str, Callable[[Tensor, int, float], Start]] = {"pissa": pissa, "olora": olora}


def lora_layers(model: PeftModel) -> Iterator[tuple[str, LoraLinear]]:
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def _weight(layer: LoraLinear) -> Tensor:
    return cast(Tensor, layer.get_base_layer().weight)


def _sides(layer: LoraLinear) -> Start:
    """The adapter's own two matrices."""
    return Start(*(cast(Tensor, side[TRAINED].weight).detach() for side in (layer.lora_A, layer.lora_B)))


def _refuse_narrow(name: str, layer: LoraLinear) -> None:
    narrow, rank = min(_weight(layer).shape), layer.r[TRAINED]
    if rank > narrow:
        raise Invalid(
            "RANK_TOO_LARGE",
            f"The layer {name} has {narrow} directions, too few for adapters of rank {rank} to start from them.",
            advice=["Lower the rank, name other target modules, or take start random."],
            layer=name,
            rank=rank,
            rank_max=narrow,
        )
