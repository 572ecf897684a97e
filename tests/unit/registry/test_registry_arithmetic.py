"""Combined adapters are those that PEFT makes, and what the papers say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from torch import nn

from feinschliff.kit.errors import WrongState
from feinschliff.registry import arithmetic
from feinschliff.registry.adapters import Source, read_form, write_combined
from feinschliff.registry.arithmetic import Factors, Matrix, Method, combine, largest, thinned

WEIGHTS = (0.7, -0.4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.v = nn.Linear(8, 6, bias=False), nn.Linear(6, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.v(self.q(x))
        return result


def saved(
    folder: Path, *, seed: int, rank: int = 4, targets: Sequence[str] = ("q", "v"), rslora: bool = False
) -> Source:
    """An adapter of the net with random numbers in both its matrices, in PEFT's files."""
    config = LoraConfig(r=rank, lora_alpha=7, target_modules=list(targets), use_rslora=rslora)
    model = get_peft_model(Net(), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_()
    model.save_pretrained(str(folder))
    return Source(folder.name, folder, WEIGHTS[seed % 2])


def loaded(*sources: Source) -> PeftModel:
    model = PeftModel.from_pretrained(Net(), str(sources[0].folder), adapter_name=sources[0].name)
    for source in sources[1:]:
        model.load_adapter(str(source.folder), adapter_name=source.name)
    return model


def tensors_of(model: PeftModel, name: str) -> dict[str, Matrix]:
    """A loaded adapter's tensors under the names of its file."""
    return {
        key.replace(f".{name}.", "."): weight.detach().numpy()
        for key, weight in model.named_parameters()
        if f".{name}." in key
    }


def ours(folder: Path, sources: Sequence[Source], method: Method) -> dict[str, Matrix]:
    write_combined(sources, method, folder, tick=lambda done, total: None)
    return dict(load_file(folder / "adapter_model.safetensors"))


def delta(model: PeftModel, layer: str, name: str) -> Matrix:
    change: Matrix = getattr(model.base_model.model, layer).get_delta_weight(name).detach().numpy()
    return change


@pytest.mark.parametrize(
    ("kind", "theirs", "density"), [("linear", "linear", 1.0), ("concatenate", "cat", 1.0), ("ties", "ties", 0.4)]
)
def test_combined_adapters_are_those_of_peft(tmp_path: Path, kind: str, theirs: str, density: float) -> None:
    sources = [saved(tmp_path / "a", seed=0), saved(tmp_path / "b", seed=1)]
    model = loaded(*sources)
    model.add_weighted_adapter(["a", "b"], list(WEIGHTS), "c", combination_type=theirs, density=density)

    found = ours(tmp_path / "combined", sources, Method(kind, density))

    expected = tensors_of(model, "c")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, rtol=1e-5, atol=1e-6, err_msg=name)


def test_dare_is_that_of_peft_where_the_same_numbers_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [saved(tmp_path / "a", seed=0), saved(tmp_path / "b", seed=1)]
    model = loaded(*sources)
    monkeypatch.setattr("peft.utils.merge_utils.random_pruning", lambda tensor, density, rescale: tensor * 2.0)
    monkeypatch.setattr(arithmetic, "thinned", lambda tensor, method, name: tensor * np.float32(2))
    model.add_weighted_adapter(["a", "b"], list(WEIGHTS), "c", combination_type="dare_linear", density=0.5)

    found = ours(tmp_path / "combined", sources, Method("dare", 0.5))

    for name, tensor in tensors_of(model, "c").items():
        np.testing.assert_allclose(found[name], tensor, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("rslora", [False, True])
def test_joined_ranks_change_each_weight_by_exactly_the_weighted_sum(tmp_path: Path, rslora: bool) -> None:
    sources = [
        saved(tmp_path / "a", seed=0, rank=2, rslora=rslora),
        saved(tmp_path / "b", seed=1, rank=5, targets=["q"], rslora=rslora),
    ]
    write_combined(sources, Method("concatenate"), tmp_path / "c", tick=lambda done, total: None)
    model = loaded(*sources, Source("c", tmp_path / "c", 1.0))

    for layer, adapters in (("q", "ab"), ("v", "a")):
        expected = sum(WEIGHTS["ab".index(name)] * delta(model, layer, name) for name in adapters)
        np.testing.assert_allclose(delta(model, layer, "c"), expected, rtol=1e-4, atol=1e-5)


def test_the_same_wish_gives_the_same_bytes_and_a_failed_layer_count_is_told(tmp_path: Path) -> None:
    sources, told = [saved(tmp_path / "a", seed=0), saved(tmp_path / "b", seed=1)], list[tuple[int, int]]()
    for place in ("one", "two"):
        write_combined(sources, Method("dare", 0.5), tmp_path / place, tick=lambda *done: told.append(done))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert told == [(1, 2), (2, 2)] * 2


def test_what_is_dropped_keeps_the_mean_and_follows_from_seed_and_name() -> None:
    ones, method = np.ones((400, 250), dtype=np.float32), Method("dare", 0.25)
    kept = thinned(ones, method, "layer/a/0")
    assert set(np.unique(kept)) == {0.0, 4.0}
    assert kept.mean() == pytest.approx(1.0, abs=0.03)
    np.testing.assert_array_equal(kept, thinned(ones, method, "layer/a/0"))
    assert (kept != thinned(ones, method, "layer/a/1")).any()
    assert (kept != thinned(ones, Method("dare", 0.25, seed=1), "layer/a/0")).any()


def test_the_largest_stay() -> None:
    tensor = np.array([[3.0, -5.0], [0.5, 4.0]], dtype=np.float32)
    np.testing.assert_array_equal(largest(tensor, 0.5), [[0, -5], [0, 4]])
    np.testing.assert_array_equal(largest(tensor, 1.0), tensor)


def test_dare_and_linear_agree_where_nothing_is_dropped() -> None:
    generator = np.random.default_rng(3)
    parts = [
        Factors(
            generator.normal(size=(3, 5)).astype(np.float32), generator.normal(size=(4, 3)).astype(np.float32), scale
        )
        for scale in (2.0, 0.5)
    ]
    plain, thin = (combine("layer", parts, WEIGHTS, Method(kind)) for kind in ("linear", "dare"))
    np.testing.assert_array_equal(plain.a, thin.a)
    np.testing.assert_array_equal(plain.b, thin.b)


def settings(**changes: object) -> bytes:
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": False, "target_modules": ["q"]}
    return orjson.dumps(plain | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"rank_pattern": {"q": 2}},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"layers_to_transform": [1]},
        {"target_modules": ".*q"},
        {"r": None},
        {"r": 0},
        {"lora_alpha": "many"},
    ],
)
def test_what_is_no_plain_low_rank_adapter_is_refused(changes: dict[str, object]) -> None:
    assert read_form("a", settings()).scale == 2
    with pytest.raises(WrongState) as refused:
        read_form("a", settings(**changes))
    assert refused.value.reason == "ADAPTER_NOT_COMBINABLE"


@pytest.mark.parametrize("text", [b"{", b"[]"])
def test_settings_that_are_none_are_refused(text: bytes) -> None:
    with pytest.raises(WrongState) as refused:
        read_form("a", text)
    assert refused.value.reason == "ADAPTER_NOT_COMBINABLE"


def test_settings_older_than_rslora_are_read() -> None:
    older = orjson.loads(settings())
    del older["use_rslora"]
    assert read_form("a", orjson.dumps(older)).scale == 2


def test_other_ranks_shapes_and_tensors_are_refused(tmp_path: Path) -> None:
    small, large = saved(tmp_path / "a", seed=0), saved(tmp_path / "b", seed=1, rank=5)
    with pytest.raises(WrongState, match="ranks 4, 5") as refused:
        ours(tmp_path / "c", [small, large], Method("linear"))
    assert refused.value.reason == "ADAPTERS_UNLIKE"

    path = large.folder / "adapter_model.safetensors"
    tensors = dict(load_file(path))
    save_file({name: np.ascontiguousarray(tensor[:, 1:]) for name, tensor in tensors.items()}, path)
    with pytest.raises(WrongState, match="shapes") as refused:
        ours(tmp_path / "c", [small, large], Method("concatenate"))
    assert refused.value.reason == "ADAPTERS_UNLIKE"

    save_file({**tensors, "base_model.model.head.weight": np.ones(3, dtype=np.float32)}, path)
    with pytest.raises(WrongState, match="head") as refused:
        ours(tmp_path / "c", [small, large], Method("concatenate"))
    assert refused.value.reason == "ADAPTER_NOT_COMBINABLE"
