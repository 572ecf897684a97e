"""A chat model small enough for tests: llama shape, byte-level vocabulary, made on the spot, always the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

VOCABULARY = 512
HIDDEN = 64
MLP = 128
LAYERS = 2
HEADS = 4
KV_HEADS = 2
CONTEXT = 512
SEED = 20260701
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EOS_ID = 2
WORDS = (
    *("system", "user", "assistant", "hello", "help", "please", "thanks", "the", "and", "you", "not", "can", "have"),
    *("with", "order", "refund", "invoice", "delivery", "account", "password", "billing", "cancel", "Hallo", "bitte"),
    *("danke", "nicht", "ich", "mein", "meine", "und", "der", "die", "das", "Rechnung", "Lieferung", "Konto"),
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_model(folder: Path, *, seed: int = SEED) -> Path:
    """Write a model folder that transformers loads with AutoModelForCausalLM and AutoTokenizer; about 0.6 MB.

    Untrained: it answers with noise, the same noise for the same seed on every machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    assert tokenizer.get_vocab_size() <= VOCABULARY
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", _tokenizer_config())
    _write(folder / "config.json", _config())
    _write(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": EOS_ID, "pad_token_id": EOS_ID})
    save_file(dict(_weights(np.random.default_rng(seed))), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    merges: list[tuple[str, str]] = []
    for left, right in _merges():
        if (left, right) not in merges:
            merges.append((left, right))
            vocab.setdefault(left + right, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return tokenizer


def _merges() -> Iterator[tuple[str, str]]:
    """Every word grows from its left, with the space before it."""
    for word in WORDS:
        grown = "Ġ"
        for letter in word:
            yield grown, letter
            grown += letter


def _tokenizer_config() -> Mapping[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[EOS_ID],
        "pad_token": SPECIAL[EOS_ID],
        "unk_token": SPECIAL[0],
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _config() -> Mapping[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HIDDEN // HEADS,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
        "dtype": "float32",
    }


def _weights(random: np.random.Generator) -> Iterator[tuple[str, NDArray[np.float32]]]:
    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) * 0.08).astype(np.float32)

    def ones() -> NDArray[np.float32]:
        return np.ones(HIDDEN, dtype=np.float32)

    kv = HIDDEN // HEADS * KV_HEADS
    yield "model.embed_tokens.weight", matrix(VOCABULARY, HIDDEN)
    yield "model.norm.weight", ones()
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        yield f"{stem}.input_layernorm.weight", ones()
        yield f"{stem}.post_attention_layernorm.weight", ones()
        yield f"{stem}.self_attn.q_proj.weight", matrix(HIDDEN, HIDDEN)
        yield f"{stem}.self_attn.k_proj.weight", matrix(kv, HIDDEN)
        yield f"{stem}.self_attn.v_proj.weight", matrix(kv, HIDDEN)
        yield f"{stem}.self_attn.o_proj.weight", matrix(HIDDEN, HIDDEN)
        yield f"{stem}.mlp.gate_proj.weight", matrix(MLP, HIDDEN)
        yield f"{stem}.mlp.up_proj.weight", matrix(MLP, HIDDEN)
        yield f"{stem}.mlp.down_proj.weight", matrix(HIDDEN, MLP)


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True), "utf-8")
