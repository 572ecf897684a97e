"""One token of every row through the whole model by a single call of C; see `lm/kernels/step.h`."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from feinschliff.inference.engines.architecture import Architecture, Layer, Norm
from feinschliff.inference.engines.pairs import Gathered
from feinschliff.inference.engines.products import Product
from feinschliff.lm.kernels import Kernels, plan

_HELD_ROWS_STEP = 8


class Linears(NamedTuple):
    """The products of a layer, as the kernel takes them."""

    query: Product
    key: Product
    value: Product
    output: Product
    gate: Product
    up: Product
    down: Product


class Rows(NamedTuple):
    """Where the keys and values of each token's row lie, and its position there, (N,) each; angles of all positions."""

    caches: Tensor
    capacities: Tensor
    positions: Tensor
    cosines: Tensor
    sines: Tensor


class Stepper:
    """Of one model. Holds the room that a step needs, for as many rows as ever took one."""

    def __init__(self, shape: Architecture, layers: Sequence[Linears], head: Product, kernels: Kernels) -> None:
        self._kernels = kernels
        self._vocabulary = head.outputs
        self._held = (shape, layers, head)  # the plan has only addresses
        self._layers = (plan.Layer * len(layers))(*map(_layer, shape.layers, layers))
        self._model = plan.Model(
            self._layers,
            shape.last_norm.weight.data_ptr(),
            _linear(head),
            len(layers),
            head.inputs,
            shape.heads,
            shape.groups,
            shape.size,
            shape.last_norm.epsilon,
            shape.scale,
        )
        inner = max(linears.gate.outputs for linears in layers)
        heads, groups = shape.heads * shape.size, shape.groups * shape.size
        self._widths = dict.fromkeys(("normed", "more"), head.inputs) | {
            "query": heads,
            "key": groups,
            "value": groups,
            "attended": heads,
            "gate": inner,
            "up": inner,
        }
        self._rooms: Mapping[str, Tensor] = {}
        self._rows_max = 0

    @classmethod
    def of(cls, shape: Architecture, layers: Sequence[Linears], head: Product, kernels: Kernels) -> Stepper | None:
        """None where the library computes some of the products."""
        if any(product.panels is None for product in (head, *(one for linears in layers for one in linears))):
            return None
        return cls(shape, layers, head, kernels)

    def step(self, states_BH: Tensor, rows: Rows, pairs: Gathered | None) -> Tensor:
        """From the embeddings of one token of each row, which it changes, to the logits behind them, (B, V)."""
        logits_BV = states_BH.new_empty(states_BH.shape[0], self._vocabulary)
        self._run(states_BH, rows, logits_BV, None, pairs)
        return logits_BV

    def read(self, states_TH: Tensor, rows: Rows, wanted_W: Tensor) -> Tensor:
        """As `step`, of tokens of one row or some, each placed by `rows`; the logits behind those wanted, (W, V)."""
        logits_WV = states_TH.new_empty(len(wanted_W), self._vocabulary)
        self._run(states_TH, rows, logits_WV, wanted_W, None)
        return logits_WV

    def _run(
        self, states_NH: Tensor, rows: Rows, logits: Tensor, wanted_W: Tensor | None, pairs: Gathered | None
    ) -> None:
        count = states_NH.shape[0]
        self._hold(count, states_NH)
        batch = plan.Batch(
            a=pairs and pairs.a,
            b=pairs and pairs.b,
            ranks=pairs and pairs.ranks,
            scales=pairs and pairs.scales,
            low=pairs and pairs.low,
            rank_max=pairs.rank_max if pairs else 0,
            rows=count,
            wanted=None if wanted_W is None else wanted_W.data_ptr(),
            wanted_rows=len(logits),
            states=states_NH.data_ptr(),
            logits=logits.data_ptr(),
            **{name: tensor.data_ptr() for name, tensor in rows._asdict().items()},
            **{name: tensor.data_ptr() for name, tensor in self._rooms.items()},
        )
        self._kernels.step(ctypes.addressof(self._model), ctypes.addressof(batch))

    def _hold(self, rows: int, like: Tensor) -> None:
        if rows > self._rows_max:
            self._rows_max = -(-rows // _HELD_ROWS_STEP) * _HELD_ROWS_STEP
            self._rooms = {name: like.new_empty(self._rows_max, width) for name, width in self._widths.items()}


def _layer(layer: Layer, linears: Linears) -> plan.Layer:
    return plan.Layer(
        norm=layer.norm.weight.data_ptr(),
        query_norm=_address(layer.query_norm),
        key_norm=_address(layer.key_norm),
        feed_forward_norm=layer.feed_forward_norm.weight.data_ptr(),
        norm_epsilon=layer.norm.epsilon,
        query_epsilon=layer.query_norm.epsilon if layer.query_norm else 0,
        key_epsilon=layer.key_norm.epsilon if layer.key_norm else 0,
        feed_forward_epsilon=layer.feed_forward_norm.epsilon,
        window=layer.window,
        **{name: _linear(product) for name, product in linears._asdict().items()},
    )


def _address(norm: Norm | None) -> int | None:
    return norm.weight.data_ptr() if norm else None


def _linear(product: Product) -> plan.Linear:
    assert product.panels is not None
    scales, bias = (None if one is None else one.data_ptr() for one in (product.scales_O, product.bias_O))
    return plan.Linear(product.panels.data_ptr(), scales, bias, product.inputs, product.outputs)
