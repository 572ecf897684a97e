"""Turn conversations into token ids through the model's own template, and mark the tokens that are answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, Literal, NamedTuple

import orjson

from feinschliff.formats.records import Message, Record
from feinschliff.kit.errors import Invalid
from feinschliff.lm.template import TemplateError, render
from feinschliff.lm.tokens import ChatTokenizer, TokenCodec, unguard

LossOn = Literal["all_assistant_turns", "last_assistant_turn"]


class Encoded(NamedTuple):
    """One conversation as tokens; `is_answer[i]` says whether token i is part of a trained answer.

    The sequence ends with the last answer token: what follows it cannot carry a loss. A text that a head judges ends
    with one token more, which stands for what the head is to say: its classes by number, or its number, in `targets`.
    """

    token_ids: list[int]
    is_answer: list[bool]
    targets: tuple[float, ...] = ()

    @property
    def answer_tokens(self) -> int:
        return sum(self.is_answer)


class _Span(NamedTuple):
    start: int
    stop: int


@dataclass(frozen=True)
class Chat:
    """A tokenizer with its chat template; the only place where messages become tokens.

    Text between control tokens is encoded answer by answer, so an answer has the tokens that sampling would give it
    after its prompt. Control tokens inside a message are plain text, never obeyed. Neither torch nor transformers is
    needed, so that who plans a job counts the very tokens that its trainer will see.
    """

    tokenizer: ChatTokenizer
    template: str
    generation_stop_ids: tuple[int, ...] = ()
    day: date | None = None

    @classmethod
    def of(
        cls,
        tokenizer: ChatTokenizer,
        *,
        generation_stop_ids: Iterable[int] = (),
        template_needed: bool = True,
        day: date | None = None,
    ) -> Chat:
        """The chat of a base.

        Args:
            tokenizer: transformers' fast one or a `PlainTokenizer`, with a chat template.
            generation_stop_ids: stop ids that the model's own generation settings name.
            template_needed: False lets a base without a template take plain texts; conversations are refused then.
            day: for templates that name the date, so that rows have the same tokens whenever they are encoded; None:
                the moment of each rendering.

        Raises:
            Invalid: CHAT_TEMPLATE_MISSING.
        """
        template = tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if not template and template_needed:
            raise _template_missing()
        return cls(tokenizer, template or "", tuple(sorted(set(generation_stop_ids))), day)

    @cached_property
    def template_hash(self) -> str:
        return "sha256:" + hashlib.sha256(self.template.encode()).hexdigest()

    @property
    def template_day(self) -> date | None:
        """The day, where the template asks for it; None: tokens do not depend on it, or it is not fixed."""
        return self.day if "strftime_now" in self.template else None

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 of the tokenizer's canonical JSON, truncation and padding left out."""
        description = orjson.loads(self.tokenizer.backend_tokenizer.to_str())
        description.update(truncation=None, padding=None)
        return "sha256:" + hashlib.sha256(orjson.dumps(description, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @cached_property
    def end_of_turn_id(self) -> int | None:
        """The control token with which the template closes an assistant turn, if it has one."""
        if not self.template:
            return None
        turn = [Message(role="user", content="a"), Message(role="assistant", content="b")]
        text = self._render(turn, None)
        ends = list(self._codec.control_tokens.finditer(text))
        return self.tokenizer.backend_tokenizer.token_to_id(ends[-1].group()) if ends else None

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Any of these ends an answer: the template's end of turn, the tokenizer's end of text, the model's own."""
        candidates = {self.end_of_turn_id, self.tokenizer.eos_token_id, *self.generation_stop_ids}
        return tuple(sorted(token for token in candidates if token is not None))

    def prompt_text(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        opens_answer: bool = True,
    ) -> str:
        """The rendered conversation up to where the assistant begins to answer, or without that."""
        return unguard(self._render(messages, tools, prompt=opens_answer))

    def prompt_ids(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        opens_answer: bool = True,
    ) -> list[int]:
        """Token ids of `prompt_text`, with control tokens inside messages as plain text."""
        text = self._render(messages, tools, prompt=opens_answer)
        return self._codec.encode([[text]])[0][0]

    def encode(self, records: Sequence[Record], *, loss_on: LossOn = "all_assistant_turns") -> list[Encoded]:
        """Each conversation as tokens with its trained answers marked, end-of-turn token included.

        An assistant turn of weight 0 is left out; a row without any marked token has no tokens at all.

        Raises:
            Invalid: CHAT_TEMPLATE_REFUSES when the template rejects the turns of a row,
                CHAT_TEMPLATE_UNSUPPORTED when it renders a prompt differently once the answer follows,
                TOOL_CALLS_UNSUPPORTED when a row holds tool calls that the template would drop.
        """
        texts, spans = [], []
        for record in records:
            text = self._render(record.messages, record.tools)
            texts.append(text)
            spans.append(self._answer_spans(record, text, loss_on))
        segments = [_cut(text, row) for text, row in zip(texts, spans, strict=True)]
        return [_join(parts) for parts in self._codec.encode(segments)]

    def whole_ids(self, records: Sequence[Record]) -> list[list[int]]:
        """Token ids of whole rendered conversations; raises as `encode`."""
        texts = [self._render(record.messages, record.tools) for record in records]
        return [row[0] for row in self._codec.encode([[text] for text in texts])]

    def plain_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts without a template; control tokens inside them are plain text."""
        return [row[0] for row in self._codec.encode([[self._codec.guard(text)] for text in texts])]

    def pieces_ids(self, pieces: Sequence[str]) -> list[list[int]]:
        """Token ids of one text in pieces, as it is, without a template; control tokens inside it count."""
        return self._codec.encode([[unguard(piece) for piece in pieces]])[0]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens without the control tokens among them."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    @cached_property
    def _codec(self) -> TokenCodec:
        return TokenCodec(self.tokenizer)

    def _answer_spans(self, record: Record, text: str, loss_on: LossOn) -> list[_Span]:
        turns = [i for i, message in enumerate(record.messages) if message.role == "assistant"]
        if loss_on == "last_assistant_turn":
            turns = turns[-1:]
        return [self._answer_span(record, text, turn) for turn in turns if record.messages[turn].weight != 0]

    def _answer_span(self, record: Record, text: str, turn: int) -> _Span:
        prompt = self._render(record.messages[:turn], record.tools, prompt=True)
        if not text.startswith(prompt):
            raise Invalid(
                "CHAT_TEMPLATE_UNSUPPORTED",
                "The base's chat template renders the turns before an answer differently once the answer follows, so "
                "its tokens cannot be told apart.",
                advice=["Train on the last assistant turn only, or take a base with a plain chat template."],
            )
        until_next = text
        if turn + 1 < len(record.messages):
            until_next = self._render(record.messages[: turn + 1], record.tools)
        if text.startswith(until_next):
            closings = list(self._codec.control_tokens.finditer(text, len(prompt), len(until_next)))
            return _Span(len(prompt), closings[-1].end() if closings else len(until_next))
        closing = self._codec.control_tokens.search(text, len(prompt))
        return _Span(len(prompt), closing.end() if closing else len(text))

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, *, prompt: bool = False
    ) -> str:
        """The template's text with the users' own control tokens between private marks."""
        if not self.template:
            raise _template_missing()
        turns = [self._turn(message) for message in messages]
        try:
            return render(
                self.template,
                turns,
                tools=self._codec.guard(list(tools)) if tools else None,
                add_generation_prompt=prompt,
                special_tokens=self.tokenizer.special_tokens_map,
                day=self.day,
            )
        except (TemplateError, TypeError) as error:
            raise Invalid(
                "CHAT_TEMPLATE_REFUSES",
                f"The base's chat template rejects this conversation: {error}",
                advice=["Compare the row's roles and their order with what the base was trained on."],
            ) from error

    def _turn(self, message: Message) -> dict[str, Any]:
        turn: dict[str, Any] = {"role": self._role(message.role), "content": self._codec.guard(message.content or "")}
        if message.name is not None:
            turn["name"] = self._codec.guard(message.name)
        if message.tool_call_id is not None:
            turn["tool_call_id"] = message.tool_call_id
        if message.tool_calls:
            if "tool_calls" not in self.template:
                raise Invalid(
                    "TOOL_CALLS_UNSUPPORTED",
                    "The base's chat template has no place for tool calls, so they would be lost.",
                    advice=["Take a base whose template knows tools, or write the calls into the content."],
                )
            turn["tool_calls"] = [_with_parsed_arguments(self._codec.guard(call)) for call in message.tool_calls]
        return turn

    def _role(self, role: str) -> str:
        """`developer` is a system turn for templates that do not know the newer name."""
        return "system" if role == "developer" and "developer" not in self.template else role


def _template_missing() -> Invalid:
    return Invalid(
        "CHAT_TEMPLATE_MISSING",
        "The base model has no chat template, so conversations cannot be rendered for it.",
        advice=["Take an instruction-tuned base, or add a chat_template.jinja to its folder."],
    )


def _cut(text: str, spans: Sequence[_Span]) -> list[str]:
    """Alternating context and answer, ending with the last answer; nothing where there is no answer."""
    parts, at = [], 0
    for span in spans:
        parts += [text[at : span.start], text[span.start : span.stop]]
        at = span.stop
    return parts


def _join(parts: Sequence[Sequence[int]]) -> Encoded:
    token_ids: list[int] = []
    is_answer: list[bool] = []
    for k, part in enumerate(parts):
        token_ids += part
        is_answer += [k % 2 == 1] * len(part)
    return Encoded(token_ids, is_answer)


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """Templates want a call's arguments as an object; the API carries them as JSON text."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = orjson.loads(function["arguments"])
    except orjson.JSONDecodeError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
