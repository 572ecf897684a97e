"""Text to token ids with control tokens kept apart: those of a template are obeyed, those of a user are plain text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

# Private-use characters around a control token that a user wrote.
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARKS = re.compile(f"[{_OPEN}{_CLOSE}]")


class _Piece(NamedTuple):
    row: int
    segment: int
    as_text: bool
    text: str


class ChatTokenizer(Protocol):
    """What chats need of a tokenizer: a fast one of transformers has it, and `lm.plain_tokenizer` without it."""

    @property
    def backend_tokenizer(self) -> Tokenizer: ...

    @property
    def chat_template(self) -> str | dict[str, str] | None: ...

    @property
    def special_tokens_map(self) -> Mapping[str, str]:
        """`bos_token`, `eos_token` and so on, where the tokenizer has them."""
        ...

    @property
    def all_special_tokens(self) -> list[str]: ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...

    @property
    def eos_token_id(self) -> int | None: ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str | list[str]: ...


class TokenCodec:
    """Encodes rendered conversations segment by segment, many at once.

    A segment is encoded on its own, so an answer gets the tokens that sampling would give it after its prompt.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._backend: Tokenizer = tokenizer.backend_tokenizer

    @cached_property
    def control_tokens(self) -> re.Pattern[str]:
        """Matches control tokens that the template wrote, not those that `guard` has marked."""
        return re.compile(f"(?<!{_OPEN})(?:{self._any_control_token.pattern})")

    def guard(self, value: Any) -> Any:
        """The same strings, lists and objects with every control token inside marked as plain text."""
        if isinstance(value, str):
            return self._any_control_token.sub(f"{_OPEN}\\g<0>{_CLOSE}", unguard(value))
        if isinstance(value, Mapping):
            return {key: self.guard(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.guard(item) for item in value]
        return value

    def encode(self, rows: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """Token ids of each segment of each row."""
        pieces = [
            _Piece(r, s, as_text=k % 2 == 1, text=text)
            for r, segments in enumerate(rows)
            for s, segment in enumerate(segments)
            for k, text in enumerate(_MARKS.split(segment))
            if text
        ]
        encoded: list[list[list[int]]] = [[[] for _ in segments] for segments in rows]
        for piece, token_ids in zip(pieces, self._ids(pieces), strict=True):
            encoded[piece.row][piece.segment].extend(token_ids)
        return encoded

    def _ids(self, pieces: Sequence[_Piece]) -> list[list[int]]:
        if self._joins_freely and not any(piece.as_text for piece in pieces):
            return _encode(self._backend, [piece.text for piece in pieces])
        rows_before = [None, *(piece.row for piece in pieces)]
        return [
            self._ids_in_context(piece, first=piece.row != row_before)
            for piece, row_before in zip(pieces, rows_before, strict=False)
        ]

    def _ids_in_context(self, piece: _Piece, *, first: bool) -> list[int]:
        """Encode behind a newline where the tokenizer would otherwise add a space at the start of a text."""
        backend = self._text_backend if piece.as_text else self._backend
        if not first and not self._joins_freely:
            newline, joined = _encode(backend, ["\n", "\n" + piece.text])
            if joined[: len(newline)] == newline:
                return joined[len(newline) :]
        return _encode(backend, [piece.text])[0]

    @cached_property
    def _joins_freely(self) -> bool:
        """Whether pieces encoded apart equal the whole encoded at once: so with byte-level BPE, not SentencePiece."""
        newline, word, both = _encode(self._backend, ["\n", "a", "\na"])
        return newline + word == both

    @cached_property
    def _text_backend(self) -> Tokenizer:
        """The same tokenizer, reading control tokens as ordinary text."""
        copy = type(self._backend).from_str(self._backend.to_str())
        copy.encode_special_tokens = True
        return copy

    @cached_property
    def _any_control_token(self) -> re.Pattern[str]:
        tokens = {token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special}
        tokens.update(self._tokenizer.all_special_tokens)
        longest_first = sorted(tokens, key=lambda token: (-len(token), token))
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def unguard(text: str) -> str:
    """The text without the marks."""
    return _MARKS.sub("", text)


def _encode(backend: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
