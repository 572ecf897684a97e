"""Linear layers whose frozen weights lie in 4 or 8 bits and are widened for each product.

nf4: quantiles of the normal distribution in blocks of 64 weights with an fp32 scale each (Dettmers et al. 2023,
arXiv:2305.14314): 4.5 bits a weight, or 4.13 with the scales in 8 bits too. int8: evenly spaced, one scale for each
output (Dettmers et al. 2022, arXiv:2208.07339); inputs are not quantised. Embeddings stay as they are, and the head
unless it is asked for.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feinschliff.formats.adaptations import Qlora
from feinschliff.kit.errors import Unserved

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK = 64
SCALES_BLOCK = 256
INT8_MAX = 127

PIECE_WEIGHTS = 64 * 1024
"""Widened at a time on a CPU, 256 KiB in fp32; a multiple of the blocks' sizes."""


class Quantisation(NamedTuple):
    """How weights are kept.

    double: whether the scales of nf4 are kept in 8 bits.
    """

    kind: Literal["nf4", "int8"]
    double: bool = False


def wanted_by(adaptation: object) -> Quantisation | None:
    """How a recipe's adaptation wants its base to be kept; None: as it is."""
    if not isinstance(adaptation, Qlora):
        return None
    return Quantisation(adaptation.quantisation, adaptation.double_quantisation)


class QuantisedLinear(nn.Linear):
    """A frozen linear layer; `weight` is widened anew whenever it is asked for, and never kept.

    Products on a CPU borrow one place in memory for all their widened weights: a tensor of its own for each would lie
    between activations that stay, and leave holes in the heap.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, quantisation: Quantisation) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight_OI.shape
        self.quantisation = quantisation
        self.dtype = weight_OI.dtype
        bias = None if bias_O is None else nn.Parameter(bias_O.detach(), requires_grad=False)
        self.register_parameter("bias", bias)
        packed = PACK[quantisation.kind](weight_OI.detach().float(), quantisation)
        for name, part in packed.items():
            self.register_buffer(name, part, persistent=False)
        self._names = tuple(packed)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(O, I) in the precision that the weight had; a new tensor each time."""
        return self._widened_into(torch.empty(self._shape, dtype=self.dtype, device=self._device))

    def borrow_weight(self) -> Tensor:
        """The same numbers for one product; on a CPU they are overwritten when this thread borrows the next."""
        if self._device.type != "cpu":
            return self.weight
        return self._widened_into(_BORROWED.place(self._shape, self.dtype))

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias

    @property
    def _shape(self) -> torch.Size:
        return torch.Size((self.out_features, self.in_features))

    @property
    def _device(self) -> torch.device:
        return self.codes.device

    def _widened_into(self, out_OI: Tensor) -> Tensor:
        parts = {name: cast(Tensor, getattr(self, name)) for name in self._names}
        WIDEN[self.quantisation.kind](parts, out_OI)
        return out_OI


class _Borrowed(threading.local):
    """For each precision the memory of the largest weight that this thread has borrowed."""

    def __init__(self) -> None:
        self._rooms: dict[torch.dtype, Tensor] = {}

    def place(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        room = self._rooms.get(dtype)
        if room is None or room.numel() < shape.numel():
            with torch.inference_mode(mode=False):  # whoever borrows first: others may want gradients beside it
                room = self._rooms[dtype] = torch.empty(shape.numel(), dtype=dtype)
        return room[: shape.numel()].view(shape)


_BORROWED = _Borrowed()


def weight_for_product(layer: nn.Linear) -> Tensor:
    """A layer's weight for one product at once; not to be kept."""
    return layer.borrow_weight() if isinstance(layer, QuantisedLinear) else layer.weight


def quantise(model: PreTrainedModel, quantisation: Quantisation) -> None:
    """Replace the linear layers but the head by quantised ones, a layer at a time; done again it changes nothing.

    Raises:
        Unserved: QUANTISATION_UNAVAILABLE where bitsandbytes is not installed.
    """
    refuse_where_unavailable(quantisation)
    for name, layer in quantisable(model).items():
        model.set_submodule(name, QuantisedLinear(layer.weight, layer.bias, quantisation))
    give_back()


def quantise_head(model: PreTrainedModel, quantisation: Quantisation) -> None:
    """Replace the head too, where it is a plain linear layer; embeddings that it was tied to stay as they are."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if type(head) is nn.Linear:
        model.set_output_embeddings(QuantisedLinear(head.weight, head.bias, quantisation))  # type: ignore[no-untyped-call]


def give_back() -> None:
    """Return freed memory to the system, where the C library can.

    Weights that were wide for a moment lie between those that stay; glibc would keep their places for good, 400 MB of
    them for a model of 135 million parameters.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def widen(model: nn.Module) -> None:
    """Replace quantised layers by plain ones with the very weights that they computed with, in fp32."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantisedLinear):
            model.set_submodule(name, _plain(layer))


def quantisation_of(model: nn.Module) -> Quantisation | None:
    """How the model's weights are kept; None where they are plain."""
    return next((one.quantisation for one in model.modules() if isinstance(one, QuantisedLinear)), None)


def quantisable(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Plain linear layers but the head, by name; a row of weights that does not pack into bytes stays plain."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head and module.in_features % 2 == 0
    }


def refuse_where_unavailable(quantisation: Quantisation) -> None:
    """
    Raises:
        Unserved: QUANTISATION_UNAVAILABLE.
    """
    if quantisation.kind != "nf4":
        return
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # of kernels that are not needed here
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise Unserved(
            "QUANTISATION_UNAVAILABLE",
            "Weights in 4 bits need the library bitsandbytes, which is not installed here.",
            advice=["Take the quantisation int8, or train with `lora`."],
            quantisation=quantisation.kind,
        ) from error


class _Product(torch.autograd.Function):
    """x W' with a gradient for x alone; the widened weight is made again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.borrow_weight())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.borrow_weight(), None


def _plain(layer: QuantisedLinear) -> nn.Linear:
    with torch.device("meta"):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.weight = nn.Parameter(layer.weight.float(), requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().float(), requires_grad=False)
    return plain


def _pack_nf4(weight_OI: Tensor, quantisation: Quantisation) -> dict[str, Tensor]:
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(
        weight_OI.contiguous(), blocksize=BLOCK, quant_type="nf4", compress_statistics=quantisation.double
    )
    if not quantisation.double:
        return {"codes": codes, "scales": state.absmax}
    outer = state.state2
    return {
        "codes": codes,
        "scales": state.absmax,
        "scales_offset": state.offset,
        "scales_of_scales": outer.absmax,
        "scales_codes": outer.code,
    }


def _widen_nf4(parts: dict[str, Tensor], out_OI: Tensor) -> None:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    scales, codes, out = _scales_nf4(parts), parts["codes"].view(-1), out_OI.view(-1)
    for start, stop in _pieces(out, PIECE_WEIGHTS):
        blocks = slice(start // BLOCK, -(stop // -BLOCK))
        state = QuantState(  # type: ignore[no-untyped-call]
            absmax=scales[blocks], shape=(stop - start,), blocksize=BLOCK, quant_type="nf4", dtype=out.dtype
        )
        out[start:stop] = dequantize_4bit(codes[start // 2 : stop // 2, None], state).view(-1)


def _scales_nf4(parts: dict[str, Tensor]) -> Tensor:
    """In fp32, of one block of weights each."""
    from bitsandbytes.functional import QuantState, dequantize_blockwise

    if "scales_codes" not in parts:
        return parts["scales"]
    outer = QuantState(  # type: ignore[no-untyped-call]
        absmax=parts["scales_of_scales"], code=parts["scales_codes"], blocksize=SCALES_BLOCK, dtype=torch.float32
    )
    return dequantize_blockwise(parts["scales"], outer) + parts["scales_offset"]


def _pack_int8(weight_OI: Tensor, quantisation: Quantisation) -> dict[str, Tensor]:
    scales_O1 = weight_OI.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / INT8_MAX
    return {"codes": torch.round(weight_OI / scales_O1).to(torch.int8), "scales": scales_O1}


def widened_int8(codes_OI: Tensor, scales_O1: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights that codes and scales stand for, (O, I)."""
    out_OI = torch.empty(codes_OI.shape, dtype=dtype, device=codes_OI.device)
    _widen_int8({"codes": codes_OI, "scales": scales_O1}, out_OI)
    return out_OI


def _widen_int8(parts: dict[str, Tensor], out_OI: Tensor) -> None:
    for start, stop in _pieces(out_OI, max(1, PIECE_WEIGHTS // out_OI.shape[1])):
        out_OI[start:stop] = parts["codes"][start:stop] * parts["scales"][start:stop]


def _pieces(out: Tensor, size: int) -> Iterator[tuple[int, int]]:
    """Bounds along the first axis; all at once but on a CPU."""
    ends = range(0, len(out), size) if out.device.type == "cpu" else range(1)
    return pairwise((*ends, len(out)))


PACK: dict[str, Callable[[Tensor, Quantisation], dict[str, Tensor]]] = {"nf4": _pack_nf4, "int8": _pack_int8}
WIDEN: dict[str, Callable[[dict[str, Tensor], Tensor], None]] = {
    "nf4": _widen_nf4,
    "int8": _widen_int8,
}
