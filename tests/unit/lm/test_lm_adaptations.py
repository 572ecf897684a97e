"""What trains, what stays as it is, and what costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import IA3Config
from torch import Tensor, nn
from transformers import PreTrainedModel

from feinschliff.formats.adaptations import Dora, Full, Ia3, LastLayers, LowRank
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import dora, full, ia3, last_layers
from feinschliff.lm.adaptations.lora_product import FusedLoraLinear
from feinschliff.lm.adaptations.own_weights import trained
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import flatten
from feinschliff.lm.load import load_model
from feinschliff.lm.logprobs import score_labels
from feinschliff.lm.rows_attention import rows_apart

IDS = torch.tensor([[1, 40, 41, 60, 77, 90, 12, 5]])


def loss_of(model: PreTrainedModel) -> Tensor:
    with rows_apart(model):
        scores = score_labels(model, flatten([Encoded(IDS[0].tolist(), [True] * IDS.shape[1])]))
    return -scores.logprobs_N.mean()


def names_of(model: nn.Module) -> set[str]:
    return set(trained(model))


def test_all_weights_train_but_the_embeddings_and_a_head_tied_to_them(tiny_model: Path) -> None:
    every = {name for name, _ in load_model(tiny_model, precision="fp32").named_parameters()}
    most = full.attach(load_model(tiny_model, precision="fp32"), Full(), seed=0)
    whole = full.attach(load_model(tiny_model, precision="fp32"), Full(train_embeddings=True), seed=0)

    assert names_of(most) == every - {"model.embed_tokens.weight"}
    assert names_of(whole) == every
    assert whole.lm_head.weight is whole.model.embed_tokens.weight


@pytest.mark.parametrize("embeddings", [True, False])
def test_in_bf16_updates_are_kept_in_fp32_and_products_are_rounded(tiny_model: Path, embeddings: bool) -> None:
    model = full.attach(load_model(tiny_model, precision="bf16"), Full(train_embeddings=embeddings), seed=0)
    plain = loss_of(load_model(tiny_model, precision="bf16"))

    loss = loss_of(model)
    loss.backward()  # type: ignore[no-untyped-call]

    assert float(loss.detach()) == pytest.approx(float(plain), abs=1e-3)
    for name, weight in trained(model).items():
        assert weight.dtype == torch.float32, name
        assert weight.grad is not None, name
        assert weight.grad.dtype == torch.float32, name
    layer = model.model.layers[0].mlp.up_proj
    before = layer.weight.clone()
    with torch.no_grad():
        master = trained(model)["model.layers.0.mlp.up_proj.weight"]
        master.mul_(1 + 2**-11)
        assert torch.equal(layer.weight, before), "too little for bf16"
        for _ in range(9):
            master.mul_(1 + 2**-11)
    assert not torch.equal(layer.weight, before), "and not lost"


def test_a_tied_weight_gathers_the_gradients_of_both_its_uses(tiny_model: Path) -> None:
    wide = full.attach(load_model(tiny_model, precision="fp32"), Full(train_embeddings=True), seed=0)
    rounded = full.attach(load_model(tiny_model, precision="bf16"), Full(train_embeddings=True), seed=0)
    for model in (wide, rounded):
        loss_of(model).backward()  # type: ignore[no-untyped-call]

    (ours, theirs) = (trained(model)["model.embed_tokens.weight"].grad for model in (wide, rounded))
    assert ours is not None
    assert theirs is not None
    assert float((ours - theirs).norm() / ours.norm()) < 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("layers", "head"), [(1, True), (1, False), (0, True)])
def test_nothing_is_differentiated_below_the_lowest_trained_layer(
    tiny_model: Path, layers: int, head: bool, precision: str
) -> None:
    model = load_model(tiny_model, precision=precision)  # type: ignore[arg-type]
    model = last_layers.attach(model, LastLayers(layers=layers, train_head=head), seed=0)
    differentiated = {}
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(
            lambda _, args, output, number=number: differentiated.update({number: output.requires_grad})
        )
    loss_of(model).backward()  # type: ignore[no-untyped-call]

    assert differentiated == {0: False, 1: layers == 1}
    expected = {name for name, _ in load_model(tiny_model, precision="fp32").named_parameters() if ".layers.1." in name}
    own = {"model.norm.weight", "lm_head.weight"}
    assert names_of(model) == (expected if layers else set()) | (own if head else set())
    assert all(weight.grad is not None for weight in trained(model).values())
    assert model.model.embed_tokens.weight.grad is None


def test_a_head_that_trains_leaves_the_embeddings_it_was_tied_to(model: PreTrainedModel) -> None:
    before = model.model.embed_tokens.weight.clone()
    adapted = last_layers.attach(model, LastLayers(layers=0), seed=0)
    assert torch.equal(adapted.lm_head.weight, before)

    with torch.no_grad():
        adapted.lm_head.weight.zero_()

    assert torch.equal(adapted.model.embed_tokens.weight, before)


def test_more_layers_than_there_are_are_refused(model: PreTrainedModel) -> None:
    with pytest.raises(Invalid) as refused:
        last_layers.attach(model, LastLayers(layers=3), seed=0)

    assert refused.value.reason == "LAYERS_TOO_MANY"


def test_dora_keeps_pefts_own_products(model: PreTrainedModel) -> None:
    adapted = dora.attach(model, Dora(lora=LowRank(rank=4)), seed=0)

    assert sum("lora_magnitude_vector" in name for name in dora.trained(adapted)) == 14
    assert not any(isinstance(module, FusedLoraLinear) for module in adapted.modules())


def test_factors_lie_on_keys_values_and_the_second_matrix(model: PreTrainedModel) -> None:
    adapted = ia3.attach(model, Ia3(), seed=0)
    config = adapted.peft_config["default"]

    assert isinstance(config, IA3Config)
    assert config.target_modules == {"k_proj", "v_proj", "down_proj"}
    assert config.feedforward_modules == {"down_proj"}
    assert all(torch.equal(weight, torch.ones_like(weight)) for weight in ia3.trained(adapted).values())


def test_named_layers_get_factors_and_unknown_ones_are_refused(tiny_model: Path) -> None:
    adapted = ia3.attach(load_model(tiny_model, precision="fp32"), Ia3(target_modules=["q_proj"]), seed=0)
    assert len(ia3.trained(adapted)) == 2

    with pytest.raises(Invalid) as refused:
        ia3.attach(load_model(tiny_model, precision="fp32"), Ia3(target_modules=["query"]), seed=0)
    assert refused.value.reason == "TARGET_MODULES_UNKNOWN"
