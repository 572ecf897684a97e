"""Products with fixed weights, laid out once for the processor's units: for few rows that takes half the time."""

from __future__ import annotations

from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feinschliff.inference.engines.packed import PackedLinear, fits, held_by, multiply, panels_of
from feinschliff.lm.kernels import Kernels
from feinschliff.lm.quantised import QuantisedLinear

_ROWS_HINT = 16  # of the library's layout; measured as good for 1 as for 128


class Product:
    """x W' + b. By our kernels a row gets the same bits whatever stands beside it; the library promises less."""

    def __init__(self, layer: nn.Linear, kernels: Kernels) -> None:
        self.inputs, self.outputs = layer.in_features, layer.out_features
        self.held = held_by(layer)
        self.bias_O = layer.bias
        self.panels: Tensor | None = None
        self.scales_O: Tensor | None = None
        self._kernels = kernels
        self._packed: Tensor | None = None
        self._quantised: QuantisedLinear | None = None
        if isinstance(layer, PackedLinear):
            self.panels, self.scales_O = layer.panels, layer.scales
        elif isinstance(layer, QuantisedLinear):
            self._quantised = layer
        elif kernels.multiplies and _is_plain(layer.weight, kernels.number_bytes):
            self.panels = panels_of(layer.weight)
        elif _library_packs(layer.weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _ROWS_HINT)

    @property
    def packed_bytes(self) -> int:
        """Of weights that are laid out anew, beside those that the model holds."""
        if self.panels is not None:
            return 0 if self.panels is self.held else self.panels.nbytes
        return 0 if self._packed is None else self.held.nbytes

    def __call__(self, x_NI: Tensor) -> Tensor:
        if self.panels is not None:
            return multiply(self._kernels, x_NI, self.panels, self.scales_O, self.bias_O, self.outputs)
        if self._packed is not None:
            y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, self._packed, self.bias_O, "none", [], "")
            return y_NO
        weight_OI = self.held if self._quantised is None else self._quantised.borrow_weight()
        return F.linear(x_NI, weight_OI, self.bias_O)


class Products:
    """Of all weights of an engine: weights that models share are laid out once."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[int, int | None], Product] = WeakValueDictionary()

    def of(self, layer: nn.Linear, kernels: Kernels) -> Product:
        key = (id(held_by(layer)), None if layer.bias is None else id(layer.bias))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Product(layer, kernels)
        return found


def _is_plain(weight_OI: Tensor, number_bytes: int) -> bool:
    """Whether the kernels can read it."""
    return weight_OI.is_floating_point() and weight_OI.element_size() == number_bytes and fits(weight_OI)


def _library_packs(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not _has_library():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _has_library() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
