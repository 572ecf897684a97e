"""Adapters that start from what rounding took: the best of their rank for these inputs, and the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from feinschliff.formats.adaptations import LowRank, Qlora
from feinschliff.lm.adaptations import qera, qlora
from feinschliff.lm.adaptations.lora_start import lora_layers
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import FlatBatch, flatten, hidden_states
from feinschliff.lm.load import load_model
from feinschliff.lm.quantised_load import plain_weights
from feinschliff.lm.rows_attention import rows_apart

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

DEVICE = torch.device("cpu")


def batch(seed: int) -> FlatBatch:
    ids = torch.randint(1, 100, (24, 12), generator=torch.Generator().manual_seed(seed))
    return flatten([Encoded(row.tolist(), [True] * 12) for row in ids])


def attached(folder: Path, rank: int = 4) -> PeftModel:
    return qlora.attach(load_model(folder, precision="fp32"), Qlora(lora=LowRank(rank=rank)), seed=0)


def started(folder: Path, rank: int = 4) -> PeftModel:
    model = attached(folder, rank)
    weight_of = plain_weights(folder, [name for name, _ in lora_layers(model)], DEVICE)
    qera.start_from_rounding(model, weight_of, batch(1), seed=3)
    return model


@torch.no_grad()
def states(model: PreTrainedModel) -> Tensor:
    with rows_apart(model):
        return hidden_states(model, batch(2))


def test_no_other_matrix_of_the_rank_is_nearer_for_these_inputs() -> None:
    torch.manual_seed(0)
    x, lost = torch.randn(500, 40) @ torch.randn(40, 40), torch.randn(24, 40)

    def error(a: Tensor, b: Tensor) -> float:
        return float(((lost - 0.5 * b @ a) @ x.T).square().mean())

    a, b = qera.best(lost, x, rank=6, scale=0.5)
    assert a.shape == (6, 40)
    torch.testing.assert_close(a.norm(dim=1), torch.full((6,), 3**-0.5))
    root = torch.linalg.cholesky(x.T @ x / len(x))
    u, values, v = torch.linalg.svd(lost @ root, full_matrices=False)
    assert error(a, b) == pytest.approx(float(values[6:].square().sum()) / len(lost), rel=0.02)
    u, values, v = torch.linalg.svd(lost, full_matrices=False)
    assert error(a, b) < 0.9 * error(v[:6], 2 * u[:, :6] * values[:6])


def test_a_layer_that_saw_nothing_starts_somewhere() -> None:
    a, b = qera.best(torch.randn(8, 16), torch.zeros(5, 16), rank=3, scale=2.0)
    assert a.isfinite().all()
    assert b.isfinite().all()


def test_the_model_is_nearer_to_the_base_as_it_was(tiny_model: Path) -> None:
    whole = states(load_model(tiny_model, precision="fp32"))
    plain, ours = (states(model.get_base_model()) for model in (attached(tiny_model), started(tiny_model)))
    assert float((ours - whole).norm()) < 0.8 * float((plain - whole).norm())


def test_it_is_the_same_again_and_leaves_no_trace_but_the_adapters(tiny_model: Path) -> None:
    one, two, before = started(tiny_model), started(tiny_model), attached(tiny_model)
    assert one.training == before.training
    assert not any(module._forward_pre_hooks for module in one.modules())
    ours, again = one.state_dict(), two.state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in ours.items())
    changed = {name for name, weight in before.state_dict().items() if not torch.equal(weight, ours[name])}
    assert changed == set(qlora.trained(one))


def test_a_rank_beyond_the_layers_width_keeps_the_rest_as_it_was(tiny_model: Path) -> None:
    model, before = started(tiny_model, rank=200), dict(lora_layers(attached(tiny_model, rank=200)))
    for name, layer in lora_layers(model):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        narrow = min(layer.in_features, layer.out_features)
        assert narrow < 200
        assert torch.equal(a[narrow:], before[name].lora_A["default"].weight[narrow:])
        assert not b[:, narrow:].any()


def test_whoever_is_asked_between_layers_may_end_it(tiny_model: Path) -> None:
    model = attached(tiny_model)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qera.start_from_rounding(model, lambda name: torch.zeros(1), batch(1), seed=0, check=stop)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_weights_are_read_by_layer_or_from_the_whole_base(tiny_model: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.down_proj"
    expected = load_model(tiny_model, precision="fp32").get_submodule(name).weight
    assert torch.equal(plain_weights(tiny_model, [name], DEVICE)(name), expected)  # type: ignore[arg-type]
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (file,) = tmp_path.glob("*.safetensors")
    bare = {key.removeprefix("model."): weight for key, weight in load_file(file).items()}  # transformers finds them
    save_file(bare, file, metadata={"format": "pt"})
    assert torch.equal(plain_weights(tmp_path, [name], DEVICE)(name), expected)  # type: ignore[arg-type]
