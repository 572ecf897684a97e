"""A base is known without its weights: its settings, its tokenizer, the shape of every tensor."""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import safe_open

from feinschliff.artifacts.bases import DEFAULT_BASE
from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.artifacts.outlines import header, outline
from feinschliff.artifacts.tokenizer import load_tokenizer
from feinschliff.kit.errors import Invalid, NotFound, WrongState


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    (tmp_path / "store").mkdir()
    return DirectoryStore(tmp_path / "store")


def shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def test_a_folder_tells_its_shapes_and_settings(tiny_model: Path, store: DirectoryStore, tmp_path: Path) -> None:
    seen = outline(f"file:{tiny_model}", store, tmp_path, offline=True, local=True)
    assert seen is not None
    assert dict(seen.shapes) == shapes_in(tiny_model)
    assert seen.config["hidden_size"] == 64


def test_a_gguf_tells_them_under_the_names_of_transformers(store: DirectoryStore, tmp_path: Path) -> None:
    seen = outline(DEFAULT_BASE, store, tmp_path, offline=True, local=True)
    assert seen is not None
    assert sum(math.prod(shape) for shape in seen.shapes.values()) == 134_515_008
    assert seen.shapes["model.layers.29.mlp.down_proj.weight"] == (576, 1536)
    assert (seen.config["num_hidden_layers"], seen.config["num_key_value_heads"]) == (30, 3)
    assert seen.config["tie_word_embeddings"] is True


def test_of_a_stored_base_only_small_files_come(tiny_model: Path, store: DirectoryStore, tmp_path: Path) -> None:
    files = {path.name: path for path in tiny_model.iterdir()}
    commit(store, "bases/tiny", dict(files), {}, kind="base")
    uri = f"s3://{store.bucket}/bases/tiny"
    first = outline(uri, store, tmp_path / "cache", offline=True, local=False)
    store.delete_prefix("bases/tiny/model.safetensors")
    again = outline(uri, store, tmp_path / "cache", offline=True, local=False)
    assert first is not None
    assert again is not None
    assert dict(first.shapes) == dict(again.shapes) == shapes_in(tiny_model)
    assert load_tokenizer(first.files).get_vocab_size() > 0
    brought = {path.name for path in first.files.path.iterdir()}
    assert "model.safetensors" not in brought
    assert {"config.json", "tokenizer.json", "shapes.json"} <= brought


def test_what_only_the_trainers_machine_sees_is_not_known_here(store: DirectoryStore, tmp_path: Path) -> None:
    assert outline("file:/models/none-such", store, tmp_path, offline=True, local=False) is None
    with pytest.raises(NotFound) as refused:
        outline("file:/models/none-such", store, tmp_path, offline=True, local=True)
    assert refused.value.reason == "BASE_NOT_FOUND"


def test_no_more_than_the_header_is_read(tiny_model: Path) -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        content = (tiny_model / "model.safetensors").read_bytes()
        for at in range(0, len(content), 256):
            taken += 256
            yield content[at : at + 256]

    size = 8 + struct.unpack_from("<Q", (tiny_model / "model.safetensors").read_bytes())[0]
    assert header(chunks(), "model.safetensors") == shapes_in(tiny_model)
    assert taken < size + 256


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, struct.pack("<Q", 4) + b"nope"])
def test_weights_that_are_none_are_refused(content: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        header(iter([content]), "model.safetensors")
    assert refused.value.reason == "BASE_MODEL_UNREADABLE"


def test_of_a_base_on_the_hub_only_small_files_and_headers_are_asked_for(
    tiny_model: Path, store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    small = shutil.copytree(tiny_model, tmp_path / "abc123", ignore=shutil.ignore_patterns("*.safetensors"))

    def snapshot_download(name: str, *, revision: str | None, cache_dir: Path, allow_patterns: list[str]) -> str:
        asked.append((name, revision, [one for one in allow_patterns if "safetensors" in one]))
        return str(small)

    def get_safetensors_metadata(name: str, *, revision: str | None) -> SimpleNamespace:
        tensors = {key: SimpleNamespace(shape=list(shape)) for key, shape in shapes_in(tiny_model).items()}
        return SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=tensors)})

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.get_safetensors_metadata", get_safetensors_metadata)
    seen = outline("hf:org/tiny@abc123", store, tmp_path / "cache", offline=False, local=False)
    assert seen is not None
    assert asked == [("org/tiny", "abc123", [])]
    assert dict(seen.shapes) == shapes_in(tiny_model)
    with pytest.raises(WrongState) as refused:
        outline("hf:org/tiny@abc123", store, tmp_path / "cache", offline=True, local=False)
    assert refused.value.reason == "OFFLINE"
