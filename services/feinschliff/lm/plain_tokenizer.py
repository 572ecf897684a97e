"""A base's tokenizer as chats need it, without transformers: the same names, the same control tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.artifacts.gguf import GgufMetadata
from feinschliff.artifacts.tokenizer import base_metadata, load_tokenizer

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_GGUF_NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


@dataclass(frozen=True)
class PlainTokenizer:
    """Stands in for transformers' fast tokenizer where only chats are rendered and counted."""

    backend_tokenizer: Tokenizer
    chat_template: str | dict[str, str] | None
    special_tokens_map: Mapping[str, str] = field(default_factory=dict)
    extra_special_tokens: tuple[str, ...] = ()

    @classmethod
    def of(cls, base: BaseFiles) -> PlainTokenizer:
        """
        Raises:
            Invalid: TOKENIZER_UNSUPPORTED, BASE_MODEL_UNREADABLE, GGUF_UNREADABLE.
        """
        backend, template = load_tokenizer(base), base_metadata(base).chat_template
        if base.kind == "gguf":
            return cls(backend, template, _named_in_gguf(base.path))
        stated = _stated(base.path)
        special = {name: text for name in NAMED if (text := _text(stated.get(name)))}
        extra = tuple(text for one in _extra(stated) if (text := _text(one)))
        return cls(_with_all(backend, stated, [*special.values(), *extra]), template, special, extra)

    @property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self.extra_special_tokens]))

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        return self.backend_tokenizer.get_added_tokens_decoder()

    @property
    def eos_token_id(self) -> int | None:
        text = self.special_tokens_map.get("eos_token")
        return None if text is None else self.backend_tokenizer.token_to_id(text)

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return self.backend_tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)


def _named_in_gguf(path: Path) -> dict[str, str]:
    metadata = GgufMetadata(path)
    tokens = metadata.texts("tokenizer.ggml.tokens")
    found = {}
    for name, key in _GGUF_NAMES.items():
        index = metadata.integer(f"tokenizer.ggml.{key}_token_id")
        if index is not None and 0 <= index < len(tokens):
            found[name] = tokens[index]
    return found


def _stated(folder: Path) -> dict[str, Any]:
    """What `tokenizer_config.json` says, and for what it does not say the older `special_tokens_map.json`."""
    older, newer = (_object(folder / f"{name}.json") for name in ("special_tokens_map", "tokenizer_config"))
    return {**older, **newer}


def _object(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_bytes()) if file.is_file() else {}
    return content if isinstance(content, dict) else {}


def _extra(stated: Mapping[str, Any]) -> list[Any]:
    given = stated.get("extra_special_tokens") or stated.get("additional_special_tokens") or []
    return list(given.values()) if isinstance(given, dict) else list(given)


def _text(token: object) -> str | None:
    """A token is written as its text, or as an object with its `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _with_all(backend: Tokenizer, stated: Mapping[str, Any], special: list[str]) -> Tokenizer:
    """The tokenizer, with tokens that only its configuration names; a copy where there are such."""
    there = {token.content for token in backend.get_added_tokens_decoder().values()}
    listed = stated.get("added_tokens_decoder") or {}
    plain = [one for _, one in sorted(listed.items(), key=lambda item: int(item[0])) if _text(one) not in there]
    missing = [text for text in dict.fromkeys(special) if text not in there]
    if not plain and not missing:
        return backend
    copy = Tokenizer.from_str(backend.to_str())
    known = ("lstrip", "rstrip", "single_word", "normalized", "special")
    copy.add_tokens([AddedToken(one["content"], **{key: one[key] for key in known if key in one}) for one in plain])
    copy.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in missing])
    return copy
