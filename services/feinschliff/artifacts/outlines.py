"""What a base is, without its weights: settings, tokenizer and the shape of every tensor, in seconds and megabytes."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from feinschliff.artifacts import bases
from feinschliff.artifacts.bases import BaseFiles
from feinschliff.artifacts.commit import key_of, read_manifest
from feinschliff.artifacts.gguf import GgufMetadata
from feinschliff.artifacts.store import Store
from feinschliff.artifacts.uri import parse_s3
from feinschliff.kit.errors import Invalid, NotFound, Unavailable

Shapes = Mapping[str, tuple[int, ...]]
Form = Literal["folder", "gguf"]
CONFIG, SHAPES = "config.json", "shapes.json"
SMALL_FILES = (CONFIG, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
SMALL_BYTES_MAX = 64 * 1024 * 1024
GGUF_HEAD_BYTES = 64 * 1024 * 1024
_HEADER_BYTES_MAX = 100_000_000  # the format's own limit
_GGUF_CONFIG = {  # what transformers calls it: by the GGUF's key, below its architecture
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}
_GGUF_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True)
class Outline:
    """A base as far as it is known without its weights.

    Args:
        files: settings and tokenizer; of a base that is fetched, nothing but them. `digest` is not the base's own.
        config: as in transformers' config.json.
        shapes: by the names that transformers gives the tensors, outputs before inputs.
    """

    files: BaseFiles
    config: Mapping[str, Any] = field(repr=False)
    shapes: Shapes = field(repr=False)


def outline(uri: str, store: Store, cache_dir: Path, *, offline: bool, local: bool) -> Outline | None:
    """What can be known of a base here; None where only the machine that trains can see it.

    A base of the hub or of S3 is not fetched: only its small files are, and the first bytes of its weights.

    Args:
        local: whether attempts run on this machine; elsewhere, `file:` names a folder of theirs.

    Raises:
        Invalid: BASE_URI_INVALID, BASE_MODEL_UNREADABLE, GGUF_UNREADABLE.
        NotFound: BASE_NOT_FOUND, BASE_NOT_INSTALLED.
        WrongState: OFFLINE. Unavailable: HUB_UNAVAILABLE, STORE_UNAVAILABLE.
    """
    try:
        here = bases.lies_at(uri)
    except NotFound:
        if local:
            raise
        return None
    if here is not None:
        kind, path = here
    elif uri.startswith("s3:"):
        kind, path = _from_store(uri, store, cache_dir)
    else:
        kind, path = _from_hub(uri, cache_dir, offline)
    return _read(uri, kind, path, _stamp(path if kind == "gguf" else path / CONFIG))


@lru_cache(maxsize=16)
def _read(uri: str, kind: Form, path: Path, stamp: str) -> Outline:
    """Args: stamp: changes when the files do, so that a remembered outline is not of older ones."""
    if kind == "gguf":
        metadata = GgufMetadata(path)
        shapes = {name: shape for tensor, shape in metadata.shapes().items() if (name := _from_gguf_name(tensor))}
        return Outline(BaseFiles(uri, stamp, "gguf", path), _gguf_config(metadata, shapes), shapes)
    listed = path / SHAPES
    found = _listed(listed) if listed.is_file() else dict(_shapes_of(path))
    return Outline(BaseFiles(uri, stamp, "folder", path), _object(path / CONFIG), found)


def _stamp(file: Path) -> str:
    found = os.stat(file)
    return f"{file}:{found.st_size}:{found.st_mtime_ns}"


def _gguf_config(metadata: GgufMetadata, shapes: Shapes) -> dict[str, Any]:
    architecture = metadata.text("general.architecture") or ""
    config: dict[str, Any] = {"model_type": architecture, "tie_word_embeddings": "lm_head.weight" not in shapes}
    for name, key in _GGUF_CONFIG.items():
        value = metadata.integer(f"{architecture}.{key}")
        if value is not None:
            config[name] = value
    return config


def _from_gguf_name(tensor: str) -> str:
    """`blk.3.attn_q.weight` as `model.layers.3.self_attn.q_proj.weight`; one that we do not know keeps its layer."""
    stem, _, kind = tensor.rpartition(".")
    if not stem.startswith("blk."):
        return f"{_GGUF_WHOLE.get(stem, stem)}.{kind}"
    _, layer, name = stem.split(".", 2)
    return f"model.layers.{layer}.{_GGUF_LAYER.get(name, name)}.{kind}"


def _shapes_of(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as source:
            yield from header(iter(partial(source.read, 1024 * 1024), b""), file.name).items()


def header(chunks: Iterable[bytes], name: str) -> dict[str, tuple[int, ...]]:
    """Shapes from the first bytes of a safetensors file; no more chunks are taken than its header has.

    Raises:
        Invalid: BASE_MODEL_UNREADABLE.
    """
    read, size = b"", 8
    for chunk in chunks:
        read += chunk
        if size == 8 and len(read) >= 8:
            size = 8 + struct.unpack_from("<Q", read)[0]
        if len(read) >= size or size > _HEADER_BYTES_MAX:
            break
    try:
        tensors = json.loads(read[8:size])
        return {key: tuple(one["shape"]) for key, one in tensors.items() if key != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid("BASE_MODEL_UNREADABLE", f"{name} does not begin like a safetensors file.", file=name) from error


def _from_store(uri: str, store: Store, cache_dir: Path) -> tuple[Form, Path]:
    bucket, prefix = parse_s3(uri)
    source = store.in_bucket(bucket)
    if prefix.endswith(".gguf"):
        found = source.head(prefix)
        if found is None:
            raise NotFound("BASE_NOT_FOUND", f"There is no base model at {uri}: there is no such object.", uri=uri)
        stamp = f"{bucket}-{int(found.modified_time.timestamp())}-{found.size_bytes}"
        path = cache_dir / "outlines" / stamp / Path(prefix).name
        if not path.is_file():
            _put(path, _first_bytes(source.open(prefix), GGUF_HEAD_BYTES))
        return "gguf", path
    manifest = read_manifest(source, prefix)
    if manifest is None:
        raise NotFound("BASE_NOT_FOUND", f"There is no base model at {uri}: there is no manifest.", uri=uri)
    folder = cache_dir / "outlines" / manifest.digest.removeprefix("sha256:")

    def read(name: str) -> bytes:
        return source.get_bytes(key_of(prefix, name), SMALL_BYTES_MAX)

    def shapes() -> Shapes:
        weights = sorted(name for name in manifest.files if name.endswith(".safetensors"))
        headers = (header(source.open(key_of(prefix, name)), name) for name in weights)
        return {tensor: shape for one in headers for tensor, shape in one.items()}

    return "folder", _folder(
        folder, {name: partial(read, name) for name in SMALL_FILES if name in manifest.files}, shapes
    )


def _from_hub(uri: str, cache_dir: Path, offline: bool) -> tuple[Form, Path]:
    name, revision = bases.hub_name(uri, offline=offline)
    try:
        from huggingface_hub import get_safetensors_metadata, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise Unavailable("HUB_UNAVAILABLE", "Install huggingface-hub to look at hf: bases.", uri=uri) from error
    try:
        cache = cache_dir / "hub"
        small = Path(snapshot_download(name, revision=revision, cache_dir=cache, allow_patterns=list(SMALL_FILES)))
        files = {one: (small / one).read_bytes for one in SMALL_FILES if (small / one).is_file()}

        def shapes() -> Shapes:
            found = get_safetensors_metadata(name, revision=revision).files_metadata.values()
            return {key: tuple(one.shape) for file in found for key, one in file.tensors.items()}

        return "folder", _folder(cache_dir / "outlines" / "hub" / small.name, files, shapes)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise Unavailable("HUB_UNAVAILABLE", f"The hub does not tell about {uri}: {error}", uri=uri) from error


def _folder(folder: Path, files: Mapping[str, Callable[[], bytes]], shapes: Callable[[], Shapes]) -> Path:
    """The small files beside each other; the shapes last, so that a folder that has them is whole."""
    if not (folder / SHAPES).is_file():
        for name, read in files.items():
            _put(folder / name, read())
        _put(folder / SHAPES, json.dumps(shapes()).encode())
    return folder


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)


def _first_bytes(chunks: Iterable[bytes], limit: int) -> bytes:
    read = bytearray()
    for chunk in chunks:
        read += chunk
        if len(read) >= limit:
            break
    return bytes(read[:limit])


def _listed(file: Path) -> Shapes:
    return {name: tuple(shape) for name, shape in _object(file).items()}


def _object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid("BASE_MODEL_UNREADABLE", f"{file.name} is no JSON: {error}.", file=file.name) from error
    return content if isinstance(content, dict) else {}
