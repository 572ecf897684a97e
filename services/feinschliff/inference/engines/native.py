"""The hand-written pass of the Llama family: packed products, and the small steps between them in C.

It computes what the model's own forward pass computes, rounding where that rounds, and is used only where a proof at
loading shows it. A row's keys and values lie in a block of its own, so joining and leaving moves nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from feinschliff.inference.engines import architecture, steps
from feinschliff.inference.engines.architecture import Architecture, Norm
from feinschliff.inference.engines.blocks import Angles, Block
from feinschliff.inference.engines.drafting import TIMED_TOKENS, fixed_tokens
from feinschliff.inference.engines.linears import Linears, Place
from feinschliff.inference.engines.parts import Adapter, Opening
from feinschliff.inference.engines.prefixes import PrefixCache
from feinschliff.inference.engines.products import Product, Products
from feinschliff.inference.engines.row import Row
from feinschliff.inference.engines.sizes import page_out
from feinschliff.inference.engines.steps import Rows, Stepper
from feinschliff.lm.kernels import Kernels

logger = logging.getLogger(__name__)

_PROOF_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference of the proof's logits from the model's own, relative to the largest of them."""

_PROOF_TOKENS = 9
_READ_BY_TOKEN_MAX = 1024
"""Positions up to which tokens of a prompt attend one by one; beyond, reading keys once for all of them is faster."""

_HEAD = "lm_head"


@dataclasses.dataclass(frozen=True)
class _Layer:
    norm: Norm
    query: Place
    key: Place
    value: Place
    query_norm: Norm | None
    key_norm: Norm | None
    window: int
    output: Place
    attention: str
    feed_forward_norm: Norm
    gate: Place
    up: Place
    down: Place
    feed_forward: str


class NativeDecoder:
    """See `decoder.Decoder`. Only for the thread that runs the model."""

    def __init__(
        self, model: PreTrainedModel, shape: Architecture, kernels: Kernels, products: Products, prefixes: PrefixCache
    ) -> None:
        self._model = model
        self._prefixes = prefixes
        self._shape = shape
        self._kernels = kernels
        self._dtype = model.dtype
        wraps = [name for layer in shape.layers for name in (layer.attention, layer.feed_forward)]
        names = [name for layer in shape.layers for name in _linears_of(layer)]
        self._linears = Linears(model, [*names, _HEAD], wraps, kernels, products)
        self._layers = [_layer(layer, self._linears) for layer in shape.layers]
        self._head = self._linears[_HEAD]
        by_layer = [
            steps.Linears(*(self._linears[name].product for name in _linears_of(layer))) for layer in shape.layers
        ]
        self._stepper = Stepper.of(shape, by_layer, self._head.product, kernels)
        self._angles = Angles(cast(Any, model.base_model).rotary_emb)
        self.fixed_tokens = 0.0
        self._rows: list[Block] = []
        self._addresses_B = self._capacities_B = torch.empty(0, dtype=torch.long)

    @classmethod
    def of(
        cls, model: PreTrainedModel, kernels: Kernels | None, products: Products, prefixes: PrefixCache
    ) -> NativeDecoder | None:
        """None where the model is of another kind, on another device, or computes something else."""
        if kernels is None or model.device.type != "cpu":
            return None
        try:
            shape = Architecture.of(model)
            if shape is None or not isinstance(getattr(model, _HEAD, None), nn.Linear):
                return None
            decoder = cls(model, shape, kernels, products, prefixes)
            if decoder._angles.cosines.shape[1] != shape.size:
                return None
            off = decoder._difference()
        except (AttributeError, TypeError, RuntimeError) as error:
            logger.warning("the hand-written pass does not know this model and is not used: %s", error)
            return None
        if not off <= _PROOF_TOLERANCE[model.dtype]:
            logger.warning("the hand-written pass differs from the model's own by %.2g and is not used", off)
            return None
        decoder.fixed_tokens = decoder._timed()
        page_out(product.held for product in decoder._linears.products if product.packed_bytes)
        return decoder

    @property
    def allocated_bytes(self) -> int:
        return sum(block.tensor.nbytes for block in self._rows)

    @property
    def packed_bytes(self) -> dict[Product, int]:
        """Of the weights as they are laid out for it."""
        return {product: product.packed_bytes for product in self._linears.products}

    def takes(self, adapter: Adapter) -> bool:
        return self._linears.takes(adapter)

    def add(self, digest: str, adapter: Adapter) -> None:
        self._linears.add(digest, adapter)

    def remove(self, digest: str) -> None:
        self._linears.remove(digest)

    def read(self, row: Row, start: int, stop: int) -> Tensor | None:
        digest, ids = row.request.adapter_digest, row.request.prompt_ids
        owner = (digest, row.request.tenant)  # what others asked must not show in how fast an answer comes
        if start == 0:
            adapter = self._linears.adapter(digest)
            block = self._block(row.tokens_max, adapter.opening if adapter else None)
            row.cached_tokens = self._prefixes.load(owner, ids, block.tensor, block.length)
            block.length += row.cached_tokens
            row.cache = block
        assert isinstance(row.cache, Block)
        start = max(start, row.cached_tokens)
        logits_V = self._read(ids[start:stop], row.cache, digest) if start < stop else None
        if stop == len(ids):
            self._prefixes.keep(owner, ids, row.cache.tensor, row.cache.length - len(ids))
        return logits_V

    def join(self, row: Row) -> None:
        assert isinstance(row.cache, Block)
        self._rows.append(row.cache)
        row.cache = None
        self._note_rows()

    def leave(self, place: int) -> None:
        self._rows[place] = self._rows[-1]
        self._rows.pop()
        self._note_rows()

    def decode(self, rows: Sequence[Row]) -> Tensor:
        self._linears.select([row.request.adapter_digest for row in rows])
        return self._decode([row.last_token for row in rows])

    def can_draft(self, rows: Sequence[Row]) -> bool:
        return self._stepper is not None and self._linears.are_pairs([row.request.adapter_digest for row in rows])

    def decode_drafts(self, rows: Sequence[Row], drafts: Sequence[Sequence[int]]) -> Tensor:
        assert self._stepper is not None
        tokens = [(row.last_token, *draft) for row, draft in zip(rows, drafts, strict=True)]
        self._linears.select([row.request.adapter_digest for row, ids in zip(rows, tokens, strict=True) for _ in ids])
        counts_B = torch.tensor([len(ids) for ids in tokens])
        positions = [block.length + at for block, ids in zip(self._rows, tokens, strict=True) for at in range(len(ids))]
        addresses_N, capacities_N = (one.repeat_interleave(counts_B) for one in (self._addresses_B, self._capacities_B))
        placed = self._places(addresses_N, capacities_N, torch.tensor(positions))
        states_NH = self._embed([token for ids in tokens for token in ids])
        logits_NV = self._stepper.step(states_NH, placed, self._linears.pairs)
        self.hold([1] * len(rows))
        return logits_NV

    def hold(self, counts: Sequence[int]) -> None:
        for block, count in zip(self._rows, counts, strict=True):
            block.length += count

    def likeliest(self, logits_BV: Tensor) -> list[int]:
        """As `sampling.likeliest`, in a tenth of a framework's time."""
        tokens_B, logits_BV = torch.empty(len(logits_BV), dtype=torch.long), logits_BV.contiguous()
        self._kernels.likeliest(logits_BV.data_ptr(), tokens_B.data_ptr(), *logits_BV.shape)
        return tokens_B.tolist()

    def fit(self) -> None:
        """Blocks are as large as their rows asked for; one that left is free already."""

    def _decode(self, token_ids: Sequence[int]) -> Tensor:
        positions_B = torch.tensor([block.length for block in self._rows])
        rows = self._places(self._addresses_B, self._capacities_B, positions_B)
        states_BH = self._embed(token_ids)
        if self._stepper is not None and not self._linears.has_extras:
            logits_BV = self._stepper.step(states_BH, rows, self._linears.pairs)
        else:
            attend = functools.partial(self._attend_one_each, rows)
            logits_BV = self._linears.through(self._head, self._by_parts(states_BH, rows, attend))
        self.hold([1] * len(self._rows))
        return logits_BV

    def _read(self, token_ids: Sequence[int], block: Block, digest: str) -> Tensor:
        self._linears.select([digest])
        tokens, start = len(token_ids), block.length
        stop = start + tokens
        rows = self._in_order(block, start, stop)
        states_TH = self._embed(token_ids)
        alters = self._linears.has_extras or self._linears.pairs is not None
        if self._stepper is not None and not alters and stop <= _READ_BY_TOKEN_MAX:
            logits_1V = self._stepper.read(states_TH, rows, torch.tensor([tokens - 1]))
        else:
            attend = functools.partial(self._attend_in_order, block, start)
            logits_1V = self._linears.through(self._head, self._by_parts(states_TH, rows, attend)[-1:])
        block.length = stop
        return logits_1V[0]

    def _in_order(self, block: Block, start: int, stop: int) -> Rows:
        """Tokens [start, stop) of one row."""
        addresses, capacities = (torch.full((stop - start,), one) for one in (block.tensor.data_ptr(), block.capacity))
        return self._places(addresses, capacities, torch.arange(start, stop))

    def _places(self, addresses_N: Tensor, capacities_N: Tensor, positions_N: Tensor) -> Rows:
        assert bool((positions_N < capacities_N).all()), "C does not look"
        self._angles.reach(int(positions_N.max()) + 1)
        return Rows(addresses_N, capacities_N, positions_N, self._angles.cosines, self._angles.sines)

    def _by_parts(self, states_NH: Tensor, rows: Rows, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Part by part, so that adapters of every kind can act on each; the last norm's output, (N, H).

        Args:
            attend: what turned queries of a layer find, both (N, heads x size).
        """
        shape, places = self._shape, [tensor.data_ptr() for tensor in rows]
        normed = torch.empty_like(states_NH)
        more: Tensor | None = None
        for number, layer in enumerate(self._layers):
            self._add_norm(states_NH, more, layer.norm, normed)
            query, key, value = self._heads(layer, normed)
            self._kernels.store(
                *(tensor.data_ptr() for tensor in (query, key, value)),
                *(places[-2:] + places[:-2]),
                *(number, len(states_NH), shape.heads, shape.groups, shape.size),
            )
            more = self._behind(layer, states_NH, attend(number, query), normed)
        self._add_norm(states_NH, more, shape.last_norm, normed)
        return normed

    def _attend_one_each(self, rows: Rows, number: int, query_BE: Tensor) -> Tensor:
        """One token of each row, to itself and what stands before it there."""
        shape, found_BE = self._shape, torch.empty_like(query_BE)
        self._kernels.attend(
            query_BE.data_ptr(),
            found_BE.data_ptr(),
            *(tensor.data_ptr() for tensor in rows[:3]),
            *(number, len(query_BE), shape.heads, shape.groups, shape.size),
            *(self._layers[number].window, shape.scale),
        )
        return found_BE

    def _attend_in_order(self, block: Block, start: int, number: int, query_TE: Tensor) -> Tensor:
        """Tokens of one row from position `start` on, each to itself and what stands before it."""
        tokens, shape, window = query_TE.shape[0], self._shape, self._layers[number].window
        query_1HTD = query_TE.view(tokens, shape.heads, shape.size).transpose(0, 1)[None]
        seen_TK: Tensor | None = None
        if start or window:
            at_T, to_K = torch.arange(start, start + tokens)[:, None], torch.arange(start + tokens)
            seen_TK = to_K <= at_T
            if window:
                seen_TK &= to_K > at_T - window
        shared = shape.heads // shape.groups
        keys, values = (
            side[None].repeat_interleave(shared, dim=1) for side in block.tensor[number, :, :, : start + tokens]
        )
        out_1HTD = F.scaled_dot_product_attention(
            query_1HTD, keys, values, attn_mask=seen_TK, is_causal=seen_TK is None, scale=shape.scale
        )
        return out_1HTD[0].transpose(0, 1).reshape(tokens, -1)

    def _heads(self, layer: _Layer, normed_NH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query = self._linears.through(layer.query, normed_NH)
        key = self._linears.through(layer.key, normed_NH)
        value = self._linears.through(layer.value, normed_NH)
        if layer.query_norm is not None:
            query = self._norm_heads(query, layer.query_norm)
        if layer.key_norm is not None:
            key = self._norm_heads(key, layer.key_norm)
        return query, key, value

    def _behind(self, layer: _Layer, states_NH: Tensor, attended_NE: Tensor, normed_NH: Tensor) -> Tensor:
        """What comes after attention; what is left to be added to the states."""
        more = self._linears.wrapped(layer.attention, normed_NH, self._linears.through(layer.output, attended_NE))
        self._add_norm(states_NH, more, layer.feed_forward_norm, normed_NH)
        gate, up = self._linears.through(layer.gate, normed_NH), self._linears.through(layer.up, normed_NH)
        self._kernels.silu_mul(gate.data_ptr(), up.data_ptr(), gate.numel())
        return self._linears.wrapped(layer.feed_forward, normed_NH, self._linears.through(layer.down, gate))

    def _add_norm(self, states_NH: Tensor, more_NH: Tensor | None, norm: Norm, normed_NH: Tensor) -> None:
        rows, width = states_NH.shape
        self._kernels.add_rms_norm(
            states_NH.data_ptr(),
            None if more_NH is None else more_NH.data_ptr(),
            norm.weight.data_ptr(),
            normed_NH.data_ptr(),
            rows,
            width,
            norm.epsilon,
        )

    def _norm_heads(self, heads_NE: Tensor, norm: Norm) -> Tensor:
        apart = heads_NE.view(-1, self._shape.size)
        normed = torch.empty_like(apart)
        self._add_norm(apart, None, norm, normed)
        return normed.view_as(heads_NE)

    def _embed(self, token_ids: Sequence[int]) -> Tensor:
        states: Tensor = self._model.get_input_embeddings()(torch.tensor(token_ids))
        return states

    def _block(self, capacity: int, opening: Opening | None) -> Block:
        shape = self._shape
        tensor = torch.empty(len(self._layers), 2, shape.groups, capacity, shape.size, dtype=self._dtype)
        if opening is None:
            return Block(tensor)
        for layer, sides in enumerate(zip(opening.keys, opening.values, strict=True)):
            for side, given in enumerate(sides):
                tensor[layer, side, :, : opening.tokens] = given[0]
        return Block(tensor, opening.tokens)

    def _note_rows(self) -> None:
        self._addresses_B = torch.tensor([block.tensor.data_ptr() for block in self._rows], dtype=torch.long)
        self._capacities_B = torch.tensor([block.capacity for block in self._rows], dtype=torch.long)

    @torch.inference_mode()
    def _timed(self) -> float:
        if self._stepper is None:
            return 0.0
        stepper, block = self._stepper, self._block(1 + TIMED_TOKENS, None)

        def step(tokens: int) -> Tensor:
            return stepper.step(self._embed([0] * tokens), self._in_order(block, 0, tokens), None)

        return fixed_tokens(step)

    @torch.inference_mode()
    def _difference(self) -> float:
        """Of logits behind a drawn prompt, read in two parts and decoded for one token, from the model's own."""
        vocabulary = int(self._model.config.get_text_config().vocab_size)
        ids = torch.randint(vocabulary, (_PROOF_TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()
        block = self._block(_PROOF_TOKENS, None)
        self._read(ids[:3], block, "")
        self._read(ids[3:-1], block, "")
        self._rows = [block]
        self._note_rows()
        self._linears.select([""])
        mine_V = self._decode(ids[-1:])[0].float()
        self._rows = []
        own_V = self._model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1].float()
        return float((mine_V - own_V).abs().max() / own_V.abs().max())


def _linears_of(layer: architecture.Layer) -> list[str]:
    """Names in the order of `plan.LINEARS`."""
    attention = [f"{layer.attention}.{name}_proj" for name in ("q", "k", "v", "o")]
    return attention + [f"{layer.feed_forward}.{name}_proj" for name in ("gate", "up", "down")]


def _layer(layer: architecture.Layer, linears: Linears) -> _Layer:
    attention, feed_forward = layer.attention, layer.feed_forward
    return _Layer(
        norm=layer.norm,
        query=linears[f"{attention}.q_proj"],
        key=linears[f"{attention}.k_proj"],
        value=linears[f"{attention}.v_proj"],
        query_norm=layer.query_norm,
        key_norm=layer.key_norm,
        window=layer.window,
        output=linears[f"{attention}.o_proj"],
        attention=attention,
        feed_forward_norm=layer.feed_forward_norm,
        gate=linears[f"{feed_forward}.gate_proj"],
        up=linears[f"{feed_forward}.up_proj"],
        down=linears[f"{feed_forward}.down_proj"],
        feed_forward=feed_forward,
    )
