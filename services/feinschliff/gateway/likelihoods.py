"""How likely the tokens of an answer were, as OpenAI's clients read it: only tokens of the text that is shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from pydantic import JsonValue

from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb

LEAST_LOGPROB = -9999.0  # what OpenAI says of a token that is as good as impossible; JSON has no infinity


class ShownTokens:
    """Follows one answer: a token is told once the text has come to it.

    So the end of the turn is not told, nor what a stop text cut off. Inference tells of every token at once, also while
    its text is held back as the beginning of a stop text.
    """

    def __init__(self) -> None:
        self._held: deque[tuple[int, common_pb2.TokenLogprob]] = deque()  # with the byte of the text it begins at
        self._told_bytes = 0
        self._shown_bytes = 0

    def push(self, text: str, logprobs: Iterable[common_pb2.TokenLogprob]) -> list[common_pb2.TokenLogprob]:
        for logprob in logprobs:
            self._held.append((self._told_bytes, logprob))
            self._told_bytes += len(logprob.utf8)
        if text and not self._shown_bytes and self._drops_first_space(text):
            self._shown_bytes = 1
        self._shown_bytes += len(text.encode())
        shown = []
        while self._held and self._held[0][0] < self._shown_bytes:
            shown.append(self._held.popleft()[1])
        return shown

    def rest(self) -> list[common_pb2.TokenLogprob]:
        """Those that the text never came to."""
        rest = [logprob for _, logprob in self._held]
        self._held.clear()
        return rest

    def _drops_first_space(self, text: str) -> bool:
        """Some tokenizers write the space before the first word into its token and leave it out of the text."""
        return bool(self._held) and self._held[0][1].utf8.startswith(b" ") and not text.startswith(" ")


def shown_tokens(choice: pb.ChatChoice) -> list[common_pb2.TokenLogprob]:
    """Those of a whole answer."""
    return ShownTokens().push("".join(part.text for part in choice.message.parts), choice.logprobs)


def logprobs_of(tokens: Iterable[common_pb2.TokenLogprob]) -> JsonValue:
    content: list[JsonValue] = [_token(one) | {"top_logprobs": [_token(other) for other in one.top]} for one in tokens]
    return {"content": content, "refusal": None}


def _token(one: common_pb2.TokenLogprob) -> dict[str, JsonValue]:
    spelled: list[JsonValue] = list(one.utf8)
    return {"token": one.token, "logprob": max(one.logprob, LEAST_LOGPROB), "bytes": spelled or None}
