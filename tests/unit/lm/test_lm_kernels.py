"""The kernels of decoding compute what torch computes, for each row alone, on any number of threads."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from feinschliff.lm import kernels as built
from feinschliff.lm.kernels import Kernels
from feinschliff.lm.sampling import likeliest

TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
NEAR = {"bf16": {"rtol": 2e-2, "atol": 2e-2}, "fp32": {"rtol": 1e-5, "atol": 1e-5}}


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


@pytest.mark.parametrize(("outputs", "inputs"), [(576, 576), (100, 64), (7, 1536), (32, 2)])
def test_products_are_those_of_the_weights_and_each_row_is_for_itself(
    kernels: Kernels, precision: str, outputs: int, inputs: int
) -> None:
    weight, bias = drawn(outputs, inputs, precision=precision), drawn(outputs, precision=precision, seed=1)
    panels = weight.new_full((-(-outputs // built.PANEL_OUTPUTS) * built.PANEL_OUTPUTS, inputs), math.nan)
    kernels.pack(weight.data_ptr(), panels.data_ptr(), inputs, outputs)
    assert panels.isfinite().all()
    for output in (0, outputs // 2, outputs - 1):
        row = torch.empty_like(weight[0])
        kernels.unpack(panels.data_ptr(), row.data_ptr(), inputs, output)
        assert torch.equal(row, weight[output])

    def through(x: Tensor, added: int | None) -> Tensor:
        y = x.new_full((len(x) + 1, outputs), math.nan)
        kernels.multiply(x.data_ptr(), panels.data_ptr(), added, y.data_ptr(), len(x), inputs, outputs)
        assert y[-1].isnan().all()
        return y[:-1]

    x = drawn(40, inputs, precision=precision, seed=2)
    alone = torch.cat([through(row[None].contiguous(), bias.data_ptr()) for row in x])
    expected = x.float() @ weight.float().T
    near = NEAR[precision] | {"atol": NEAR[precision]["atol"] * inputs**0.5}
    torch.testing.assert_close(alone.float(), expected + bias.float(), **near)
    torch.testing.assert_close(through(x, None).float(), expected, **near)
    for rows in (2, 11, 12, 13, 25, 40):
        assert torch.equal(through(x[:rows].contiguous(), bias.data_ptr()), alone[:rows])


def test_a_row_s_numbers_do_not_depend_on_threads_or_neighbours(cache: Path) -> None:
    found = []
    for threads in (1, 2):
        kernels = built.load("fp32", cache, threads=threads)
        assert kernels is not None
        for rows in (1, 40):
            states, weight = drawn(40, 576)[:rows].clone(), drawn(576, seed=1)
            more, normed = states.clone(), torch.empty_like(states)
            kernels.add_rms_norm(
                states.data_ptr(), more.data_ptr(), weight.data_ptr(), normed.data_ptr(), rows, 576, 1e-5
            )
            found.append(normed[0])
    assert all(torch.equal(one, found[0]) for one in found)


def test_they_are_built_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert built.load("fp32", tmp_path, threads=1)
    (made,) = (tmp_path / "kernels").iterdir()
    assert made.name == built.file_name(built.level())
    built._library.cache_clear()
    monkeypatch.setattr(built, "build", lambda *_: pytest.fail("built again"))
    assert built.load("bf16", tmp_path, threads=1)


def test_without_a_compiler_there_are_none_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(built, "find_spec", lambda name: None)
    assert built.load("fp32", tmp_path, threads=1) is None
    assert "no C compiler" in caplog.text


def test_a_compiler_that_fails_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert built.load("fp32", tmp_path, threads=1) is None
    assert "out of order" in caplog.text
    assert not list((tmp_path / "kernels").iterdir())


def test_every_level_of_x86_can_be_built(tmp_path: Path) -> None:
    for one in built.levels_of("x86_64") if built.level().startswith("x86") else [built.level()]:
        built.build(tmp_path / built.file_name(one), one)
        assert (tmp_path / built.file_name(one)).stat().st_size > 1000
