"""Bases load alike everywhere; a GGUF is unpacked once, exactly, whoever asks first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.kit.errors import Invalid
from feinschliff.lm.load import load_base, load_model, prepare, resolve_precision

HIDDEN, HEADS, VOCABULARY, MLP = 64, 2, 260, 96


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Llama layer with 4-bit weights and a byte-level tokenizer."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    _add_tokenizer(writer)
    random = np.random.default_rng(0)
    for name, (rows, columns) in _matrices().items():
        weights = random.standard_normal((rows, columns)).astype(np.float32)
        writer.add_tensor(
            name,
            gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_1),
            raw_dtype=gguf.GGMLQuantizationType.Q4_1,
        )
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _matrices() -> dict[str, tuple[int, int]]:
    attention = {f"blk.0.attn_{part}.weight": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
    mlp = {"blk.0.ffn_gate.weight": (MLP, HIDDEN), "blk.0.ffn_up.weight": (MLP, HIDDEN)}
    return {"token_embd.weight": (VOCABULARY, HIDDEN), **attention, **mlp, "blk.0.ffn_down.weight": (HIDDEN, MLP)}


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    from tokenizers import pre_tokenizers

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    assert len(tokens) == VOCABULARY
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (VOCABULARY - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")


def base(path: Path) -> BaseFiles:
    kind = "gguf" if path.suffix == ".gguf" else "folder"
    return BaseFiles(f"file:{path}", "sha256:" + "0" * 64, kind, path)  # type: ignore[arg-type]


def test_a_gguf_is_unpacked_exactly(tiny_gguf: Path, tmp_path: Path) -> None:
    folder = prepare(base(tiny_gguf), tmp_path)

    stored = load_file(folder / "model.safetensors")
    reader = gguf.GGUFReader(tiny_gguf)
    down = next(tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_down.weight")
    expected = gguf.quants.dequantize(down.data, down.tensor_type)
    assert stored["model.layers.0.mlp.down_proj.weight"].dtype == np.float32
    assert np.array_equal(stored["model.layers.0.mlp.down_proj.weight"], expected)


def test_every_precision_is_rounded_from_the_same_numbers(tiny_gguf: Path, tmp_path: Path) -> None:
    whole = load_base(base(tiny_gguf), precision="fp32", cache_dir=tmp_path)
    half = load_base(base(tiny_gguf), precision="bf16", cache_dir=tmp_path)

    assert (whole.precision, half.precision) == ("fp32", "bf16")
    for (name, exact), (_, rounded) in zip(whole.model.named_parameters(), half.model.named_parameters(), strict=True):
        assert rounded.dtype == torch.bfloat16
        assert torch.equal(exact.to(torch.bfloat16), rounded), name
    assert whole.tokenizer.encode("ab") == [VOCABULARY - 1]


def test_a_base_comes_frozen_and_without_dropout(tiny_model: Path, tmp_path: Path) -> None:
    loaded = load_base(base(tiny_model), cache_dir=tmp_path)

    assert loaded.folder == tiny_model
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training


def test_many_at_once_unpack_once(tiny_gguf: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        folders = set(threads.map(lambda _: prepare(base(tiny_gguf), tmp_path), range(4)))

    (folder,) = folders
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_an_unpacking_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really" * 10)

    with pytest.raises(Invalid) as refusal:
        prepare(base(broken), tmp_path / "cache")

    assert refusal.value.reason == "BASE_MODEL_UNREADABLE"
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_dir() and path.name != "prepared-v1"]


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refusal:
        load_model(tmp_path, precision="fp32")

    assert refusal.value.reason == "BASE_MODEL_UNREADABLE"


def test_precision_is_what_was_asked_for() -> None:
    assert resolve_precision("fp32") == "fp32"
    assert resolve_precision("bf16") == "bf16"
    assert resolve_precision("auto") in ("bf16", "fp32")


def test_a_killed_unpacking_is_done_again(tiny_gguf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prepared-v1"
    folder.mkdir()
    (folder / ("0" * 64 + ".leftover")).mkdir()

    assert (prepare(base(tiny_gguf), tmp_path) / "config.json").is_file()
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["0" * 64]
