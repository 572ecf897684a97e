"""A base's tokenizer and chat facts without torch and transformers, equal to what transformers makes of the files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.artifacts.gguf import GgufMetadata
from feinschliff.kit.errors import Invalid

_CONTROL, _USER_DEFINED = 3, 4
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPLITS: dict[str, str | None] = {
    "default": None,
    "gpt-2": None,
    "smollm": None,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "qwen2": _QWEN2,
}
"""How text is cut before merging, by the GGUF's `tokenizer.ggml.pre`; None is GPT-2's pattern."""


@dataclass(frozen=True, slots=True)
class BaseMetadata:
    """Facts of a base model that need no weights; None where its files do not say.

    Args:
        chat_template: Jinja source.
        vocabulary_size: number of token ids, added tokens included.
    """

    architecture: str
    context_tokens: int | None
    vocabulary_size: int
    chat_template: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None


def load_tokenizer(base: BaseFiles) -> Tokenizer:
    """The tokenizer of a base; do not change it (padding, truncation), it is shared.

    Raises:
        Invalid: TOKENIZER_UNSUPPORTED, the files hold no tokenizer that can be built without transformers.
    """
    return _load(base.kind, base.path, base.digest)


def base_metadata(base: BaseFiles) -> BaseMetadata:
    """Chat template, special ids and sizes of a base.

    Raises:
        Invalid: BASE_MODEL_UNREADABLE, GGUF_UNREADABLE.
    """
    return _gguf_metadata(base.path) if base.kind == "gguf" else _folder_metadata(base)


@lru_cache(maxsize=4)
def _load(kind: str, path: Path, digest: str) -> Tokenizer:
    if kind == "gguf":
        return _from_gguf(GgufMetadata(path), path)
    file = path / "tokenizer.json"
    if not file.is_file():
        raise _unsupported(path, "there is no tokenizer.json")
    return Tokenizer.from_file(str(file))


def _from_gguf(metadata: GgufMetadata, path: Path) -> Tokenizer:
    model, split = metadata.text("tokenizer.ggml.model"), metadata.text("tokenizer.ggml.pre") or "default"
    if model != "gpt2" or split not in SPLITS:
        raise _unsupported(path, f"its GGUF states the tokenizer {model!r} with the split {split!r}")
    alphabet = _byte_alphabet()
    known = set(alphabet.values())
    tokens = metadata.texts("tokenizer.ggml.tokens")
    spelled = [token if known.issuperset(token) else _spell(token, alphabet) for token in tokens]
    merges = [cast(tuple[str, str], tuple(merge.split(" "))) for merge in metadata.texts("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(spelled)},
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
        )
    )
    _add_tokens(tokenizer, tokens, metadata.integers("tokenizer.ggml.token_type"), known)
    tokenizer.pre_tokenizer = _pre_tokenizer(SPLITS[split])
    tokenizer.decoder = decoders.ByteLevel()
    if metadata.scalar("tokenizer.ggml.add_bos_token"):
        _add_bos(tokenizer, tokens, metadata.integer("tokenizer.ggml.bos_token_id"))
    return tokenizer


def _pre_tokenizer(split: str | None) -> pre_tokenizers.PreTokenizer:
    if split is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), behavior="isolated"), byte_level])


def _add_tokens(tokenizer: Tokenizer, tokens: list[str], kinds: list[int], known: set[str]) -> None:
    control = [
        token for token, kind in zip(tokens, kinds, strict=False) if kind == _CONTROL and known.issuperset(token)
    ]
    plain = [token for token, kind in zip(tokens, kinds, strict=False) if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    there = [token for token in plain if tokenizer.token_to_id(token) is not None]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in there])


def _add_bos(tokenizer: Tokenizer, tokens: list[str], bos: int | None) -> None:
    if bos is not None:
        text = tokens[bos]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{text} $A", pair=f"{text} $A {text} $B:1", special_tokens=[(text, bos)]
        )


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's spelling of bytes as printable characters: printable ones stay, the others move above 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(moved)}


def _spell(token: str, alphabet: dict[int, str]) -> str:
    return "".join(alphabet[byte] for byte in token.encode())


def _gguf_metadata(path: Path) -> BaseMetadata:
    metadata = GgufMetadata(path)
    architecture = metadata.text("general.architecture") or ""
    return BaseMetadata(
        architecture=architecture,
        context_tokens=metadata.integer(f"{architecture}.context_length"),
        vocabulary_size=metadata.count("tokenizer.ggml.tokens"),
        chat_template=metadata.text("tokenizer.chat_template"),
        bos_token_id=metadata.integer("tokenizer.ggml.bos_token_id"),
        eos_token_id=metadata.integer("tokenizer.ggml.eos_token_id"),
        pad_token_id=metadata.integer("tokenizer.ggml.padding_token_id"),
    )


def _folder_metadata(base: BaseFiles) -> BaseMetadata:
    config, stated = _json(base.path / "config.json"), _json(base.path / "tokenizer_config.json")
    tokenizer = load_tokenizer(base)

    def token_id(name: str) -> int | None:
        token = stated.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        return tokenizer.token_to_id(text) if isinstance(text, str) else None

    file = base.path / "chat_template.jinja"
    template = file.read_text("utf-8") if file.is_file() else stated.get("chat_template")
    return BaseMetadata(
        architecture=str(config.get("model_type", "")),
        context_tokens=config.get("max_position_embeddings"),
        vocabulary_size=tokenizer.get_vocab_size(with_added_tokens=True),
        chat_template=template if isinstance(template, str) else None,
        bos_token_id=token_id("bos"),
        eos_token_id=token_id("eos"),
        pad_token_id=token_id("pad"),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise Invalid("BASE_MODEL_UNREADABLE", f"{path.name} is no JSON: {error}.", file=path.name) from error
    return content if isinstance(content, dict) else {}


def _unsupported(path: Path, why: str) -> Invalid:
    return Invalid(
        "TOKENIZER_UNSUPPORTED",
        f"The tokenizer of {path.name} cannot be built: {why}.",
        advice=["Use a base folder that contains tokenizer.json."],
        why=why,
    )
