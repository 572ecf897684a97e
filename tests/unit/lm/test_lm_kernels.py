"""The kernels of decoding compute what torch computes, for each row alone, on any number of threads."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from feinschliff.inference.engines.packed import multiply, panels_of, weight_of
from feinschliff.lm import kernels as built
from feinschliff.lm.kernels import Kernels
from feinschliff.lm.sampling import likeliest

TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
NEAR = {"bf16": {"rtol": 2e-2, "atol": 2e-2}, "fp32": {"rtol": 1e-5, "atol": 1e-5}}


@pytest.fixture(autouse=True)
def _none_is_brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built, "BROUGHT", tmp_path / "nowhere")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are built in a moment, where what matters is that they are."""
    monkeypatch.setattr(built, "FLAGS", (*built.FLAGS, "-O0"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=TYPES)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kernels(precision: str, threads: int, cache: Path) -> Kernels:
    found = built.load(precision, cache, threads=threads)
    assert found is not None
    return found


def drawn(*shape: int, precision: str = "fp32", seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(TYPES[precision])


def test_norms_round_as_the_model_does(kernels: Kernels, precision: str) -> None:
    states, more, weight = (
        drawn(*shape, precision=precision, seed=n) for n, shape in enumerate([(37, 576)] * 2 + [(576,)])
    )
    summed = states + more
    wide = summed.float()
    expected = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(states.dtype) * weight
    normed = torch.empty_like(states)
    kernels.add_rms_norm(states.data_ptr(), more.data_ptr(), weight.data_ptr(), normed.data_ptr(), *states.shape, 1e-5)
    assert torch.equal(states, summed)
    torch.testing.assert_close(normed, expected, **NEAR[precision])
    before = summed.clone()
    kernels.add_rms_norm(states.data_ptr(), None, weight.data_ptr(), normed.data_ptr(), *states.shape, 1e-5)
    assert torch.equal(states, before)


@pytest.mark.parametrize("count", [1, 17, 8192, 40_001])
def test_gates_are_silu(kernels: Kernels, precision: str, count: int) -> None:
    gate, up = 8 * drawn(count, precision=precision), drawn(count, precision=precision, seed=1)
    expected = F.silu(gate) * up
    kernels.silu_mul(gate.data_ptr(), up.data_ptr(), count)
    torch.testing.assert_close(gate, expected, **NEAR[precision])


def test_gates_stand_numbers_of_any_size(kernels: Kernels, precision: str) -> None:
    gate = torch.tensor([-1e30, -200.0, -88.5, 0.0, 88.5, 200.0, 1e30, math.nan]).to(TYPES[precision])
    expected, ones = F.silu(gate), torch.ones_like(gate)
    kernels.silu_mul(gate.data_ptr(), ones.data_ptr(), len(gate))
    torch.testing.assert_close(gate, expected, equal_nan=True, **NEAR[precision])


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize(("heads", "groups", "size"), [(9, 3, 64), (4, 4, 16), (8, 1, 128)])
def test_a_token_attends_to_its_own_row_alone(
    kernels: Kernels, precision: str, heads: int, groups: int, size: int, window: int
) -> None:
    lengths, layers, layer = [0, 3, 70, 200], 2, 1
    rows, dtype = len(lengths), TYPES[precision]
    angle = torch.arange(256)[:, None] * (0.5 ** torch.arange(size // 2)[None]).repeat(1, 2)
    cosines, sines = angle.cos().contiguous(), angle.sin().contiguous()
    blocks = [
        drawn(layers, 2, groups, length + 3 + n, size, precision=precision, seed=n) for n, length in enumerate(lengths)
    ]
    kept = [block.clone() for block in blocks]
    query = drawn(rows, heads, size, precision=precision, seed=7)
    key, value = (drawn(rows, groups, size, precision=precision, seed=n) for n in (8, 9))
    out = torch.full_like(query, math.nan)
    addresses, capacities = torch.tensor([b.data_ptr() for b in blocks]), torch.tensor([b.shape[3] for b in blocks])
    positions = torch.tensor(lengths)
    tables = [t.data_ptr() for t in (cosines, sines, addresses, capacities, positions)]
    asked = query.clone()
    kernels.store(asked.data_ptr(), key.data_ptr(), value.data_ptr(), *tables, layer, rows, heads, groups, size)
    kernels.attend(asked.data_ptr(), out.data_ptr(), *tables[2:], layer, rows, heads, groups, size, window, size**-0.5)

    def turned(x: Tensor, at: int) -> Tensor:
        one, two = x.float().chunk(2, -1)
        return (x.float() * cosines[at] + torch.cat((-two, one), -1) * sines[at]).to(dtype)

    for row, at in enumerate(lengths):
        keys, values = (
            torch.cat((side[:, :at], new[:, None]), 1)
            for side, new in zip(kept[row][layer], (turned(key[row], at), value[row]), strict=True)
        )
        assert torch.equal(blocks[row][layer, 1, :, : at + 1], values)
        torch.testing.assert_close(blocks[row][layer, 0, :, : at + 1], keys, **NEAR[precision])
        assert torch.equal(blocks[row][0], kept[row][0])
        assert torch.equal(blocks[row][layer, :, :, at + 1 :], kept[row][layer, :, :, at + 1 :])
        first = max(0, at - window + 1) if window else 0
        expected = F.scaled_dot_product_attention(
            turned(query[row], at)[:, None].float(),
            keys[:, first:].float().repeat_interleave(heads // groups, 0),
            values[:, first:].float().repeat_interleave(heads // groups, 0),
        )
        torch.testing.assert_close(out[row].float(), expected[:, 0], **NEAR[precision])


def test_each_row_gets_its_own_pair_and_nothing_of_the_others(kernels: Kernels, precision: str) -> None:
    ranks, width_in, width_out = [3, 0, 130, 16], 100, 150
    x = drawn(len(ranks), width_in, precision=precision)
    y = drawn(len(ranks), width_out, precision=precision, seed=1)
    pairs = [(drawn(rank, width_in, seed=rank), drawn(rank, width_out, seed=rank + 1)) for rank in ranks]
    scales = np.array([2.0, 5.0, 0.1, 0.5], np.float32)
    expected = [
        (own.float() + scale * (row.float() @ a.T) @ b).to(y.dtype)
        for row, own, (a, b), scale in zip(x, y, pairs, scales.tolist(), strict=True)
    ]
    before = y[1].clone()
    a, b = (np.array([pair[side].data_ptr() for pair in pairs]) for side in (0, 1))
    low, numbers = np.empty((len(ranks), max(ranks)), np.float32), np.array(ranks)
    kernels.add_low_rank(
        x.data_ptr(), y.data_ptr(), a.ctypes.data, b.ctypes.data, numbers.ctypes.data, scales.ctypes.data,
        low.ctypes.data, max(ranks), len(ranks), width_in, width_out,
    )  # fmt: skip
    assert torch.equal(y[1], before)
    for row, wanted in enumerate(expected):
        near = {"rtol": 2e-2, "atol": 0.1} if precision == "bf16" else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(y[row], wanted, **near)


def test_the_first_of_the_largest_logits_is_chosen_and_numbers_that_are_none_are_said(
    kernels: Kernels, precision: str
) -> None:
    logits = drawn(7, 1003, precision=precision)
    logits[0, [5, 700]] = 100.0
    logits[1, 0] = logits[2, -1] = 100.0
    logits[3, 4] = math.nan
    logits[4, 4] = math.inf
    logits[5] = -math.inf
    tokens = torch.empty(7, dtype=torch.long)
    kernels.likeliest(logits.data_ptr(), tokens.data_ptr(), 7, 1003)
    assert tokens.tolist() == [5, 0, 1002, -1, -1, -1, int(logits[6].argmax())]
    assert tokens.tolist() == likeliest(logits)


@pytest.mark.parametrize("kept", ["numbers", "bytes"])
@pytest.mark.parametrize(("outputs", "inputs"), [(576, 576), (100, 64), (7, 1536), (32, 4)])
def test_products_are_those_of_the_weights_and_each_row_is_for_itself(
    kernels: Kernels, precision: str, outputs: int, inputs: int, kept: str
) -> None:
    weight, bias = drawn(outputs, inputs, precision=precision), drawn(outputs, precision=precision, seed=1)
    scales: Tensor | None = None
    packed = weight
    if kept == "bytes":
        packed = (weight.float() * 40).round().clamp(-127, 127).to(torch.int8)
        packed[0, :2] = torch.tensor([127, -127])
        scales = torch.rand(outputs, generator=torch.Generator().manual_seed(4)) / 40
        weight = packed * scales[:, None]
        scales = scales * 2.0**-24
    panels = panels_of(packed)
    assert torch.equal(weight_of(panels, outputs, packed.dtype), packed)
    x = drawn(40, inputs, precision=precision, seed=2)

    def through(x: Tensor, added: Tensor | None) -> Tensor:
        return multiply(kernels, x, panels, scales, added, outputs)

    alone = torch.cat([through(row[None], bias) for row in x])
    expected = x.float() @ weight.float().T
    near = NEAR[precision] | {"atol": NEAR[precision]["atol"] * inputs**0.5}
    torch.testing.assert_close(alone.float(), expected + bias.float(), **near)
    torch.testing.assert_close(through(x, None).float(), expected, **near)
    for rows in (2, 11, 12, 13, 25, 40):
        assert torch.equal(through(x[:rows], bias), alone[:rows])
