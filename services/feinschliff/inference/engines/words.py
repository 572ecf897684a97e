"""What a base's tokenizer and chat template do, the same whoever computes: texts in, tokens out, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.objectives import Classify, Pretrain, Regress
from feinschliff.formats.records import Message, Record
from feinschliff.inference.engine import Tools
from feinschliff.inference.scores import AnswerTokens
from feinschliff.lm.chat import Chat
from feinschliff.lm.encoding import RowEncoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Words:
    """See the methods of the same names in `engine.Engine`."""

    def __init__(self, chat: Chat, tokenizer: Tokenizer) -> None:
        self._chat = chat
        self._tokenizer = tokenizer

    def encode_chat(self, messages: Sequence[Message], tools: Tools | None, add_generation_prompt: bool) -> list[int]:
        return self._chat.prompt_ids(messages, tools, opens_answer=add_generation_prompt)

    def render_chat(self, messages: Sequence[Message], tools: Tools | None, add_generation_prompt: bool) -> str:
        return self._chat.prompt_text(messages, tools, opens_answer=add_generation_prompt)

    def encode_answer(self, messages: Sequence[Message]) -> AnswerTokens:
        (row,) = self._chat.encode([Record(messages=list(messages))], loss_on="last_assistant_turn")
        first = row.is_answer.index(True) if any(row.is_answer) else len(row.token_ids)
        return AnswerTokens(row.token_ids, first)

    def encode_text(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        encoder = RowEncoder(self._chat, Pretrain())
        return [encoder.text_ids(text) for text in texts]

    def encode_pieces(self, pieces: Sequence[str]) -> list[list[int]]:
        return self._chat.pieces_ids(pieces)

    def encode_for_head(self, texts: Sequence[str], facts: HeadFacts) -> list[list[int]]:
        objective = Regress() if facts.kind == "regress" else Classify(multi_label=facts.multi_label)
        encoder = RowEncoder(self._chat, objective, facts)
        return [encoder.text_ids(text) for text in texts]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))
