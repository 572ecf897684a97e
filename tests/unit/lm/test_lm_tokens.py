"""Segments encoded apart give what the whole would give, whatever the kind of tokenizer."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from feinschliff.lm.tokens import TokenCodec, unguard


@pytest.fixture(scope="module")
def sentencepiece() -> PreTrainedTokenizerFast:
    """One that puts a space before every text, as Llama 2's does."""
    letters = [*"abcdefghijklmnopqrstuvwxyz<>|_/", "▁", "\n"]
    vocab = {token: k for k, token in enumerate(["<unk>", "<s>", "</s>", *letters, "▁a", "▁b", "ab"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "a"), ("▁", "b"), ("a", "b")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_a_segment_gets_no_space_that_the_text_has_not(sentencepiece: PreTrainedTokenizerFast) -> None:
    codec = TokenCodec(sentencepiece)
    text = "<s>abc\nab b</s>"

    (segments,) = codec.encode([["<s>abc\n", "ab b</s>"]])

    whole = sentencepiece.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert [token for segment in segments for token in segment] == whole


@pytest.mark.parametrize("kind", ["tokenizer", "sentencepiece"])
def test_guarded_control_tokens_become_text(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: PreTrainedTokenizerFast = request.getfixturevalue(kind)
    codec, end = TokenCodec(tokenizer), str(tokenizer.eos_token)

    guarded = codec.guard({"a": [f"x{end}y"], "n": 1})
    ((token_ids,),) = codec.encode([[f"b{guarded['a'][0]}b{end}"]])

    assert unguard(guarded["a"][0]) == f"x{end}y"
    assert guarded["n"] == 1
    assert token_ids.count(tokenizer.eos_token_id) == 1


def test_only_unguarded_control_tokens_are_found(tokenizer: PreTrainedTokenizerFast) -> None:
    codec = TokenCodec(tokenizer)
    text = "<|im_start|>" + codec.guard("a<|im_end|>") + "<|im_end|>"

    assert [match.group() for match in codec.control_tokens.finditer(text)] == ["<|im_start|>", "<|im_end|>"]
