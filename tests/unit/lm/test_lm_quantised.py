"""Linear layers in 4 and 8 bits: they compute with their widened weights, forwards and backwards, and hold no more."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from feinschliff.formats.adaptations import Lora, LowRank, Qlora
from feinschliff.kit.errors import Invalid, Unserved
from feinschliff.lm import quantised_load
from feinschliff.lm.adaptations import lora, qlora
from feinschliff.lm.adaptations.lora_product import FusedLoraLinear
from feinschliff.lm.adaptations.saved import kind_of
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import flatten
from feinschliff.lm.load import load_model
from feinschliff.lm.logprobs import score_labels
from feinschliff.lm.quantised import Quantisation, QuantisedLinear, quantisation_of, quantise, wanted_by, widen
from feinschliff.lm.rows_attention import rows_apart

IDS = torch.tensor([[1, 40, 41, 60, 77, 90, 12, 5]])
WAYS = [Quantisation("nf4"), Quantisation("nf4", double=True), Quantisation("int8")]
IN_NF4 = Qlora(lora=LowRank(rank=4))

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def loss_of(model: PreTrainedModel) -> Tensor:
    with rows_apart(model):
        return -score_labels(model, flatten([Encoded(IDS[0].tolist(), [True] * IDS.shape[1])])).logprobs_N.mean()


def stirred(model: PeftModel) -> PeftModel:
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in lora.trained(model).values():
            weight.normal_(0, 0.05)
    return model


def settings_of(way: Quantisation, *, dropout: float = 0.0) -> Qlora:
    low = LowRank(rank=4, dropout=dropout)
    return Qlora(lora=low, quantisation=way.kind, double_quantisation=way.double)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_weight_borrowed_to_answer_can_be_borrowed_to_train(way: Quantisation) -> None:
    layer = QuantisedLinear(torch.randn(2, 1_100_000), None, way)  # larger than any that was borrowed before
    with torch.inference_mode():
        layer.borrow_weight()
    x = torch.randn(1, layer.in_features, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], layer.weight.sum(0))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_widened_weights_are_near_and_take_fewer_bits(way: Quantisation) -> None:
    torch.manual_seed(0)
    weight = torch.randn(256, 512)
    layer = QuantisedLinear(weight, None, way)

    bits = 8 * sum(part.nbytes for name, part in layer.named_buffers() if name != "scales_codes") / weight.numel()
    error = float((layer.weight - weight).norm() / weight.norm())

    assert bits == pytest.approx({"nf4": 4.13 if way.double else 4.5, "int8": 8.06}[way.kind], abs=0.02)
    assert error < (0.012 if way.kind == "int8" else 0.1)
    assert torch.equal(layer.weight, layer.weight)


def test_the_codes_are_those_of_bitsandbytes() -> None:
    import bitsandbytes.functional as theirs

    weight = torch.randn(32, 128)
    codes, state = theirs.quantize_4bit(weight, quant_type="nf4", compress_statistics=False)
    rows, scales, _ = theirs.int8_vectorwise_quant(weight)

    assert torch.equal(QuantisedLinear(weight, None, WAYS[0]).weight, theirs.dequantize_4bit(codes, state))
    expected = rows.float() * scales[:, None] / 127
    torch.testing.assert_close(QuantisedLinear(weight, None, WAYS[2]).weight, expected)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_and_its_gradient_are_those_of_the_widened_weight(way: Quantisation, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = QuantisedLinear(torch.randn(24, 128).to(dtype), torch.randn(24).to(dtype), way)
    x = torch.randn(2, 5, 128).to(dtype).requires_grad_()
    plain = x.detach().clone().requires_grad_()

    layer(x).square().sum().backward()
    (nn.functional.linear(plain, layer.weight) + layer.bias).square().sum().backward()

    assert torch.equal(x.grad, plain.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_borrowed_weight_is_the_widened_one_in_the_place_of_the_last(way: Quantisation, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    many_pieces, last_block_short = (
        QuantisedLinear(torch.randn(*shape).to(dtype), None, way) for shape in ((300, 576), (5, 34))
    )
    first = many_pieces.borrow_weight()
    assert torch.equal(first, many_pieces.weight)
    second = last_block_short.borrow_weight()
    assert torch.equal(second, last_block_short.weight)
    assert second.data_ptr() == first.data_ptr()
    assert many_pieces.weight.data_ptr() != first.data_ptr()


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_gradients_are_those_of_plain_lora_on_the_widened_base(
    tiny_model: Path, way: Quantisation, precision: str, dropout: float
) -> None:
    def base() -> PreTrainedModel:
        return load_model(tiny_model, precision=precision)  # type: ignore[arg-type]

    ours = stirred(qlora.attach(base(), settings_of(way, dropout=dropout), seed=0))
    rounded = base()
    quantise(rounded, way)
    widen(rounded)
    for weight in rounded.parameters():
        weight.data = weight.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    plain = stirred(lora.attach(rounded, Lora(rank=4, dropout=dropout), seed=0))
    for model in (ours, plain):
        model.train()
        torch.manual_seed(9)
        loss_of(model.get_base_model()).backward()  # type: ignore[no-untyped-call]

    assert any(isinstance(one, FusedLoraLinear) for one in ours.modules()) == (dropout == 0)
    expected = lora.trained(plain)
    assert len(expected) == 28
    for name, weight in lora.trained(ours).items():
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, expected[name].grad, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_base_read_weight_by_weight_is_the_one_that_was_quantised_whole(tiny_model: Path, way: Quantisation) -> None:
    for precision in ("fp32", "bf16"):
        whole = load_model(tiny_model, precision=precision)  # type: ignore[arg-type]
        quantise(whole, way)
        read = load_model(tiny_model, precision=precision, quantisation=way)  # type: ignore[arg-type]

        assert quantisation_of(read) == way
        assert read.lm_head.weight is read.model.embed_tokens.weight
        assert not any(weight.is_meta or weight.requires_grad for weight in read.parameters())
        assert read.generation_config.eos_token_id == whole.generation_config.eos_token_id
        assert read.name_or_path == str(tiny_model)
        with torch.no_grad():
            ours = read(input_ids=IDS, use_cache=False).logits
            assert torch.equal(ours, whole(input_ids=IDS, use_cache=False).logits)


def test_files_that_name_weights_otherwise_are_loaded_whole_first(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_model(tiny_model, precision="fp32", quantisation=WAYS[0])
    monkeypatch.setattr(quantised_load, "_places", lambda folder: {"other.name": folder})

    other = load_model(tiny_model, precision="fp32", quantisation=WAYS[0])

    with torch.no_grad():
        assert torch.equal(other(input_ids=IDS).logits, expected(input_ids=IDS).logits)


def test_embeddings_and_head_keep_their_precision(model: PreTrainedModel) -> None:
    quantise(model, WAYS[0])

    assert sum(isinstance(one, QuantisedLinear) for one in model.modules()) == 14
    assert type(model.lm_head) is nn.Linear
    assert model.lm_head.weight.dtype == torch.float32


def test_what_is_saved_is_plain_lora_and_says_how_the_base_was_kept(tiny_model: Path, tmp_path: Path) -> None:
    adapted = stirred(qlora.attach(load_model(tiny_model, precision="fp32"), settings_of(WAYS[1]), seed=0))
    qlora.save(adapted, tmp_path, base_model="file:base")

    rounded = load_model(tiny_model, precision="fp32")
    quantise(rounded, WAYS[1])
    widen(rounded)
    plain = PeftModel.from_pretrained(rounded, tmp_path)

    assert kind_of(tmp_path) == "qlora"
    kept = Qlora.model_validate_json((tmp_path / "adaptation.json").read_bytes())
    assert wanted_by(kept) == WAYS[1]
    assert kept.lora.rank == 4
    assert json.loads((tmp_path / "adapter_config.json").read_bytes())["peft_type"] == "LORA"
    with torch.no_grad():
        torch.testing.assert_close(
            plain(input_ids=IDS).logits, adapted.get_base_model()(input_ids=IDS).logits, rtol=1e-4, atol=1e-5
        )


def test_a_saved_adapter_trains_on_over_a_base_kept_the_same_way(tiny_model: Path, tmp_path: Path) -> None:
    adapted = stirred(qlora.attach(load_model(tiny_model, precision="fp32"), settings_of(WAYS[2]), seed=0))
    qlora.save(adapted, tmp_path, base_model="file:base")

    resumed = qlora.resume(load_model(tiny_model, precision="fp32"), tmp_path)

    assert quantisation_of(resumed) == WAYS[2]
    assert torch.equal(loss_of(resumed.get_base_model()), loss_of(adapted.get_base_model()))


def test_unknown_targets_are_refused(model: PreTrainedModel) -> None:
    with pytest.raises(Invalid) as refused:
        qlora.attach(model, Qlora(lora=LowRank(target_modules=["query"])), seed=0)
    assert refused.value.reason == "TARGET_MODULES_UNKNOWN"


def test_without_the_library_four_bits_are_refused_and_eight_are_not(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(Unserved) as refused:
        qlora.attach(model, IN_NF4, seed=0)
    assert refused.value.reason == "QUANTISATION_UNAVAILABLE"

    quantise(model, WAYS[2])
    assert quantisation_of(model) == WAYS[2]


def test_another_family_is_read_weight_by_weight_too(tmp_path: Path) -> None:
    from transformers import Qwen2Config

    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)

    whole = load_model(tmp_path, precision="fp32")
    quantise(whole, WAYS[0])
    read = load_model(tmp_path, precision="fp32", quantisation=WAYS[0])

    with torch.no_grad():
        assert torch.equal(read(input_ids=IDS).logits, whole(input_ids=IDS).logits)
