"""Products with fixed weights, laid out once for the processor's units: for few rows that takes half the time."""

from __future__ import annotations

from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS_HINT = 16  # of the layout; measured as good for 1 as for 128


class Product:
    """x W' + b. The same numbers for a row whatever stands beside it, as far as the library's blocks allow."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight_OI = layer.weight  # kept: others read it, and it says what the layout is of
        self._bias_O = layer.bias
        self._packed: Tensor | None = None
        if _is_packable(layer.weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _ROWS_HINT)

    @property
    def outputs(self) -> int:
        return self.weight_OI.shape[0]

    @property
    def packed_bytes(self) -> int:
        return 0 if self._packed is None else self.weight_OI.nbytes

    def __call__(self, x_NI: Tensor) -> Tensor:
        if self._packed is None:
            return F.linear(x_NI, self.weight_OI, self._bias_O)
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, self._packed, self._bias_O, "none", [], "")
        return y_NO


class Products:
    """Of all weights of an engine: weights that models share are laid out once."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[int, int | None], Product] = WeakValueDictionary()

    def of(self, layer: nn.Linear) -> Product:
        key = (id(layer.weight), None if layer.bias is None else id(layer.bias))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Product(layer)
        return found


def _is_packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not _has_library():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _has_library() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
