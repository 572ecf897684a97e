"""Products with fixed weights, laid out once for the processor's units: for few rows that takes half the time."""

from __future__ import annotations

from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feinschliff.lm.kernels import PANEL_OUTPUTS, Kernels

_ROWS_HINT = 16  # of the library's layout; measured as good for 1 as for 128


class Product:
    """x W' + b. By our kernels a row gets the same bits whatever stands beside it; the library promises less."""

    def __init__(self, layer: nn.Linear, kernels: Kernels) -> None:
        self.weight_OI = layer.weight  # kept: others read it, and it says what the layout is of
        self.bias_O = layer.bias
        self._kernels = kernels
        self.panels: Tensor | None = None
        self._packed: Tensor | None = None
        if kernels.multiplies and _is_plain(layer.weight, kernels.number_bytes):
            self.panels = _panels(layer.weight, kernels)
        elif _library_packs(layer.weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _ROWS_HINT)

    @property
    def outputs(self) -> int:
        return self.weight_OI.shape[0]

    @property
    def inputs(self) -> int:
        return self.weight_OI.shape[1]

    @property
    def packed_bytes(self) -> int:
        if self.panels is not None:
            return self.panels.nbytes
        return 0 if self._packed is None else self.weight_OI.nbytes

    def __call__(self, x_NI: Tensor) -> Tensor:
        if self.panels is not None:
            return self._by_panels(x_NI.contiguous(), self.panels)
        if self._packed is None:
            return F.linear(x_NI, self.weight_OI, self.bias_O)
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, self._packed, self.bias_O, "none", [], "")
        return y_NO

    def _by_panels(self, x_NI: Tensor, panels: Tensor) -> Tensor:
        rows = x_NI.shape[0]
        y_NO = x_NI.new_empty(rows, self.outputs)
        bias = None if self.bias_O is None else self.bias_O.data_ptr()
        self._kernels.multiply(
            x_NI.data_ptr(), panels.data_ptr(), bias, y_NO.data_ptr(), rows, self.inputs, self.outputs
        )
        return y_NO


class Products:
    """Of all weights of an engine: weights that models share are laid out once."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[int, int | None], Product] = WeakValueDictionary()

    def of(self, layer: nn.Linear, kernels: Kernels) -> Product:
        key = (id(layer.weight), None if layer.bias is None else id(layer.bias))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Product(layer, kernels)
        return found


def _panels(weight_OI: Tensor, kernels: Kernels) -> Tensor:
    outputs, inputs = weight_OI.shape
    panels = weight_OI.new_empty(-(-outputs // PANEL_OUTPUTS) * PANEL_OUTPUTS, inputs)
    kernels.pack(weight_OI.data_ptr(), panels.data_ptr(), inputs, outputs)
    return panels


def _is_plain(weight_OI: Tensor, number_bytes: int) -> bool:
    """Whether the kernels can read it."""
    is_theirs = weight_OI.device.type == "cpu" and weight_OI.is_floating_point()
    return (
        is_theirs
        and weight_OI.element_size() == number_bytes
        and weight_OI.is_contiguous()
        and weight_OI.shape[1] % 2 == 0
    )


def _library_packs(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not _has_library():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _has_library() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
