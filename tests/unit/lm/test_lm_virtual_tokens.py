"""Rows behind virtual tokens, side by side, learn what PEFT teaches them in a padded batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, MistralConfig, PreTrainedConfig, PreTrainedModel

from feinschliff.formats.adaptations import Prefix, Prompt, PTuning
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import ADAPTATIONS, prefix, prompt
from feinschliff.lm.adaptations.prompt_files import encoder_of
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import flatten, hidden_states
from feinschliff.lm.load import load_model, load_tokenizer
from feinschliff.lm.logprobs import score_labels
from feinschliff.lm.recomputation import recompute_activations
from feinschliff.lm.rows_attention import rows_apart

ROWS = [
    Encoded([1, 40, 41, 60, 77, 90, 12, 5], [False, False, True, True, False, True, True, True]),
    Encoded([7, 31, 9], [False, True, True]),
    Encoded([80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91], [False] * 6 + [True] * 6),
]
KINDS: dict[str, Any] = {
    "prompt": Prompt(virtual_tokens=5),
    "p_tuning": PTuning(virtual_tokens=5, encoder_width=24),
    "prefix": Prefix(virtual_tokens=5),
    "prefix_projected": Prefix(virtual_tokens=5, projection_width=24),
}
SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}

BEGINNING = list(range(100, 120))
NOT_LEARNED = [False] * len(BEGINNING)

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def attached(model: PreTrainedModel, kind: str, *, seed: int = 3) -> PeftModel:
    adapted: PeftModel = ADAPTATIONS[KINDS[kind].kind].attach(model, KINDS[kind], seed=seed)
    return adapted


def stirred(adapted: PeftModel) -> PeftModel:
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in encoder_of(adapted).parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    return adapted


def flat_loss(model: PreTrainedModel, rows: list[Encoded], *, share_prefixes: bool = False) -> Tensor:
    with rows_apart(model):
        return -score_labels(model, flatten(rows, share_prefixes=share_prefixes)).logprobs_N.sum()


def padded_loss(model: nn.Module, rows: list[Encoded]) -> Tensor:
    width = max(len(row.token_ids) for row in rows)
    ids = torch.tensor([row.token_ids + [0] * (width - len(row.token_ids)) for row in rows])
    mask = torch.tensor([[1] * len(row.token_ids) + [0] * (width - len(row.token_ids)) for row in rows])
    labels = torch.full_like(ids, -100)
    for place, row in enumerate(rows):
        for token, is_answer in enumerate(row.is_answer):
            labels[place, token] = row.token_ids[token] if is_answer else -100
    output = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False)
    count = sum(sum(row.is_answer) for row in rows)
    loss: Tensor = output.loss * count
    return loss


def pefts_own(base: PreTrainedModel, kind: str) -> PeftModel:
    """What PEFT makes of the same settings, in training."""
    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}
    configs = {
        "prompt": PromptTuningConfig(**common),
        "p_tuning": PromptEncoderConfig(**common, encoder_hidden_size=24),
        "prefix": PrefixTuningConfig(**common),
        "prefix_projected": PrefixTuningConfig(**common, prefix_projection=True, encoder_hidden_size=24),
    }
    return get_peft_model(base, configs[kind])  # type: ignore[return-value]


@pytest.mark.parametrize("begins", ["differently", "alike"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_pefts_on_the_padded_batch(tiny_model: Path, kind: str, begins: str) -> None:
    ours = stirred(attached(load_model(tiny_model, precision="fp32"), kind))
    theirs = pefts_own(load_model(tiny_model, precision="fp32"), kind)
    encoder_of(theirs).load_state_dict(encoder_of(ours).state_dict())
    alike = begins == "alike"
    rows = [Encoded([*BEGINNING, *row.token_ids], [*NOT_LEARNED, *row.is_answer]) if alike else row for row in ROWS]

    loss = flat_loss(ours.get_base_model(), rows, share_prefixes=alike)
    expected = padded_loss(theirs, rows)
    loss.backward()  # type: ignore[no-untyped-call]
    expected.backward()  # type: ignore[no-untyped-call]

    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-4)
    wanted = dict(encoder_of(theirs).named_parameters())
    for name, weight in encoder_of(ours).named_parameters():
        assert weight.grad is not None, name
        torch.testing.assert_close(weight.grad, wanted[name].grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_peft_loads_what_was_saved_and_says_the_same(tmp_path: Path, tiny_model: Path, kind: str) -> None:
    adapted = stirred(attached(load_model(tiny_model, precision="fp32"), kind))
    ADAPTATIONS[KINDS[kind].kind].save(adapted, tmp_path, base_model="file:base")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path)

    with torch.no_grad():
        ours, theirs = flat_loss(adapted.get_base_model(), ROWS), padded_loss(plain.eval(), ROWS)
        count = encoder_of(adapted).embedding.num_embeddings

    assert float(ours) == pytest.approx(float(theirs), abs=1e-4)
    vectors = load_file(tmp_path / "adapter_model.safetensors")
    assert list(vectors) == ["prompt_embeddings"]
    assert len(vectors["prompt_embeddings"]) == count == 5


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_apart_however_a_batch_is_split(tiny_model: Path, kind: str) -> None:
    model = stirred(attached(load_model(tiny_model, precision="fp32"), kind)).get_base_model()

    with torch.no_grad():
        together = float(flat_loss(model, ROWS))
        alone = sum(float(flat_loss(model, [row])) for row in ROWS)

    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_gives_what_the_whole_row_gives(tiny_model: Path, kind: str) -> None:
    model = stirred(attached(load_model(tiny_model, precision="fp32"), kind)).get_base_model()
    ids = torch.tensor([ROWS[0].token_ids])
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits
        first = model(input_ids=ids[:, :3], use_cache=True)
        pieces, cache = [first.logits], first.past_key_values
        for place in range(3, ids.shape[1]):
            output = model(input_ids=ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            pieces.append(output.logits)
            cache = output.past_key_values
        with rows_apart(model):
            states = hidden_states(model, flatten([ROWS[0]]))

    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.lm_head(states), whole[0, :-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_row(tiny_model: Path, kind: str) -> None:
    model = stirred(attached(load_model(tiny_model, precision="fp32"), kind)).get_base_model()

    with torch.no_grad():
        assert float(padded_loss(model, ROWS)) == pytest.approx(float(flat_loss(model, ROWS)), abs=1e-4)


@pytest.mark.parametrize(
    "config",
    [MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=4), GPTNeoXConfig(**SMALL)],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("kind", KINDS)
def test_other_decoders_compute_side_by_side_what_they_compute_alone(config: PreTrainedConfig, kind: str) -> None:
    torch.manual_seed(7)
    base: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model = stirred(attached(base.requires_grad_(False).train(False), kind)).get_base_model()

    with torch.no_grad():
        alone = sum(float(padded_loss(model, [row])) for row in ROWS)
        assert float(flat_loss(model, ROWS)) == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_trains_is_the_encoder_in_fp32_and_nothing_else(tiny_model: Path, kind: str, precision: str) -> None:
    adapted = attached(load_model(tiny_model, precision=precision), kind)  # type: ignore[arg-type]
    flat_loss(adapted.get_base_model(), ROWS).backward()  # type: ignore[no-untyped-call]

    trained = ADAPTATIONS[KINDS[kind].kind].trained(adapted)
    assert set(trained) == {f"prompt_encoder.default.{name}" for name, _ in encoder_of(adapted).named_parameters()}
    assert all(weight.dtype == torch.float32 and weight.grad is not None for weight in trained.values())
    assert not any(weight.requires_grad for weight in adapted.get_base_model().parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_are_computed_again_learn_the_same(tiny_model: Path, kind: str) -> None:
    def gradients(*, again: bool) -> dict[str, Tensor | None]:
        adapted = stirred(attached(load_model(tiny_model, precision="fp32"), kind))
        model = adapted.get_base_model()
        if again:
            recompute_activations(model)
        model.train()
        with rows_apart(model):
            loss = -score_labels(model, flatten(ROWS)).logprobs_N.sum()
            loss.backward()  # type: ignore[no-untyped-call]
        return {name: weight.grad for name, weight in encoder_of(adapted).named_parameters()}

    once, twice = gradients(again=False), gradients(again=True)
    for name, gradient in once.items():
        assert gradient is not None
        torch.testing.assert_close(twice[name], gradient, msg=name)


def test_equal_seeds_give_equal_starts_and_they_are_vectors_of_tokens(tiny_model: Path) -> None:
    def start(seed: int) -> Tensor:
        adapted = attached(load_model(tiny_model, precision="fp32"), "prompt", seed=seed)
        torch.rand(3)
        return encoder_of(adapted).embedding.weight.detach()  # type: ignore[no-any-return]

    table = load_model(tiny_model, precision="fp32").get_input_embeddings().weight
    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert all(any(torch.equal(vector, row) for row in table) for vector in start(1))


def test_vectors_start_from_a_text_repeated_to_their_number(tiny_model: Path) -> None:
    base = load_model(tiny_model, precision="fp32")
    ids = load_tokenizer(tiny_model).encode("refund my order", add_special_tokens=False)
    adapted = prompt.attach(base, Prompt(virtual_tokens=len(ids) + 2, initial_text="refund my order"), seed=0)

    expected = base.get_input_embeddings()(torch.tensor([*ids, *ids[:2]]))
    assert torch.equal(encoder_of(adapted).embedding.weight, expected)


def test_a_prefix_starts_as_what_tokens_before_the_row_would_be(tiny_model: Path) -> None:
    adapted = attached(load_model(tiny_model, precision="fp32"), "prefix", seed=11)
    from feinschliff.lm.adaptations.prompt_files import common_tokens

    plain = load_model(tiny_model, precision="fp32")
    before = common_tokens(plain, 5, seed=11)
    ids = torch.tensor([ROWS[0].token_ids])
    with torch.no_grad():
        expected = plain(input_ids=torch.cat([before[None], ids], dim=1), use_cache=False).logits[:, 5:]
        given = adapted.get_base_model()(input_ids=ids, use_cache=False).logits

    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_a_text_without_a_token_is_refused(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return []

    monkeypatch.setattr(prompt, "load_tokenizer", lambda folder: Silent())
    with pytest.raises(Invalid) as refused:
        prompt.attach(model, Prompt(initial_text="\u200b"), seed=0)
    assert refused.value.reason == "INITIAL_TEXT_EMPTY"


def test_keys_and_values_are_cut_from_pefts_flat_vectors(model: PreTrainedModel) -> None:
    vectors = torch.arange(2.0 * 2 * 2 * 2 * 3).view(2, -1)
    layers = prefix.keys_and_values(vectors, layers=2, heads=2)

    assert [tuple(part.shape) for part in layers[0]] == [(1, 2, 2, 3)] * 2
    assert layers[0][0][0, 0, 0].tolist() == [0, 1, 2]
    assert layers[0][0][0, 1, 0].tolist() == [3, 4, 5]
    assert layers[0][1][0, 0, 0].tolist() == [6, 7, 8]
    assert layers[1][0][0, 0, 0].tolist() == [12, 13, 14]
    assert layers[0][0][0, 0, 1].tolist() == [24, 25, 26]
