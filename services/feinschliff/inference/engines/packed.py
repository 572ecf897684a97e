"""Weights laid out for our kernels, and layers of a model that have no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feinschliff.lm.kernels import PANEL_OUTPUTS, UNIT_BYTES, Kernels
from feinschliff.lm.quantised import Quantisation, QuantisedLinear, give_back, widened_int8

_SCALE = 2.0**-24
"""The kernels make numbers of bytes at the upper end of 32 bits."""


def fits(weight_OI: Tensor) -> bool:
    """Whether panels can hold it: on a CPU, and each output's weights fill whole units."""
    row_bytes = weight_OI.shape[1] * weight_OI.element_size()
    return weight_OI.device.type == "cpu" and row_bytes % UNIT_BYTES == 0 and weight_OI.is_contiguous()


def panels_of(weight_OI: Tensor) -> Tensor:
    """(panels, units of an output, outputs of a panel) of 32 bits each, the last panel filled up with zeros."""
    units_OU = weight_OI.detach().view(torch.int32)
    outputs, units = units_OU.shape
    panels = -(-outputs // PANEL_OUTPUTS)
    filled = F.pad(units_OU, (0, 0, 0, panels * PANEL_OUTPUTS - outputs))
    return filled.view(panels, PANEL_OUTPUTS, units).transpose(1, 2).contiguous()


def weight_of(panels: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    """What `panels_of` was made of, (O, I)."""
    units_OU = panels.transpose(1, 2).contiguous().view(-1, panels.shape[1])
    return units_OU[:outputs].view(dtype)


def multiply(
    kernels: Kernels, x_NI: Tensor, panels: Tensor, scales_O: Tensor | None, bias_O: Tensor | None, outputs: int
) -> Tensor:
    """x W' + b, (N, O). A row gets the same bits whatever stands beside it."""
    rows, inputs = x_NI.shape
    x_NI, y_NO = x_NI.contiguous(), x_NI.new_empty(rows, outputs)
    scales, bias = (None if one is None else one.data_ptr() for one in (scales_O, bias_O))
    kernels.multiply(x_NI.data_ptr(), panels.data_ptr(), scales, bias, y_NO.data_ptr(), rows, inputs, outputs)
    return y_NO


class PackedLinear(nn.Linear):
    """A frozen layer whose weights of a byte lie as panels only; `weight` is widened anew whenever it is asked for.

    Copies share the panels: they are never changed.
    """

    panels: Tensor
    scales: Tensor

    def __init__(
        self,
        panels: Tensor,
        scales_O: Tensor,
        bias: nn.Parameter | None,
        *,
        inputs: int,
        dtype: torch.dtype,
        kernels: Kernels,
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = inputs, len(scales_O)
        self.dtype = dtype
        self.kernels = kernels
        self.register_parameter("bias", bias)
        self.register_buffer("panels", panels, persistent=False)
        self.register_buffer("scales", scales_O, persistent=False)

    @classmethod
    def of(cls, layer: QuantisedLinear, kernels: Kernels) -> PackedLinear | None:
        """None for a layer that panels cannot hold."""
        if layer.quantisation.kind != "int8" or not fits(layer.codes):
            return None
        panels, scales_O = panels_of(layer.codes), layer.scales[:, 0] * _SCALE
        return cls(panels, scales_O, layer.bias, inputs=layer.in_features, dtype=layer.dtype, kernels=kernels)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(O, I) in the precision of the model's numbers; a new tensor each time."""
        codes_OI = weight_of(self.panels, self.out_features, torch.int8)
        return widened_int8(codes_OI, self.scales[:, None] / _SCALE, self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        y_NO = multiply(
            self.kernels, x.reshape(-1, self.in_features), self.panels, self.scales, self.bias, self.out_features
        )
        return y_NO.view(*x.shape[:-1], self.out_features)

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        inputs, dtype, kernels = self.in_features, self.dtype, self.kernels
        return PackedLinear(self.panels, self.scales, self.bias, inputs=inputs, dtype=dtype, kernels=kernels)


def pack(model: nn.Module, kernels: Kernels) -> None:
    """Lays out the layers whose weights are bytes, one after the other, and keeps no others of them."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantisedLinear) and (packed := PackedLinear.of(layer, kernels)):
            model.set_submodule(name, packed)
    give_back()


def layers_in_bytes(model: nn.Module) -> Iterator[tuple[str, PackedLinear | QuantisedLinear]]:
    """Layers of a model whose weights are bytes, by name."""
    for name, layer in model.named_modules():
        if isinstance(layer, PackedLinear | QuantisedLinear):
            yield name, layer


def as_kept(like: PackedLinear | QuantisedLinear, weight_OI: Tensor) -> PackedLinear | QuantisedLinear:
    """A layer with other weights, kept as those of `like` are; `like` itself where they are no others."""
    weight_OI = weight_OI.to(like.scales.device, like.dtype)
    plain = QuantisedLinear(weight_OI, like.bias, Quantisation("int8"))
    made = (PackedLinear.of(plain, like.kernels) or plain) if isinstance(like, PackedLinear) else plain
    is_same = torch.equal(held_by(made), held_by(like)) and torch.equal(made.scales, like.scales)
    return like if is_same else made


def held_by(layer: nn.Linear) -> Tensor:
    """The weights of a layer as its model holds them: the same tensor each time, shared by copies of the layer."""
    if isinstance(layer, PackedLinear):
        return layer.panels
    return layer.codes if isinstance(layer, QuantisedLinear) else layer.weight
