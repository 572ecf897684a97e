"""Which tokens a client is told of: those of the text that it sees, whenever the text comes."""

from __future__ import annotations

import pytest

from feinschliff.gateway.completing import TextLikelihoods
from feinschliff.gateway.likelihoods import ShownTokens
from feinschliff.v1.common_pb2 import TokenLogprob


def token(text: str, utf8: bytes | None = None) -> TokenLogprob:
    return TokenLogprob(token=text, utf8=text.encode() if utf8 is None else utf8)


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        ([("he", ["he"]), ("llo", ["llo"]), ("", ["<|im_end|>"])], [["he"], ["llo"], []]),
        ([("a ", ["a "]), ("", ["#"]), ("# b", ["# b"])], [["a "], [], ["#", "# b"]]),  # held back, then shown
        ([("a", ["a"]), ("", ["#"]), ("", ["##"])], [["a"], [], []]),  # a stop text took it
        ([("a", ["ab#"])], [["ab#"]]),  # a token that is shown in part is shown
        ([("Hi", [" Hi"]), ("!", ["!"]), ("", ["</s>"])], [["Hi"], ["!"], []]),  # the first word's space is no text
    ],
)
def test_tokens_are_told_when_the_text_comes_to_them(
    pieces: list[tuple[str, list[str]]], told: list[list[str]]
) -> None:
    shown = ShownTokens()
    found = [[one.token for one in shown.push(text, map(token, tokens))] for text, tokens in pieces]
    assert found == [[one if one != "Hi" else " Hi" for one in piece] for piece in told]


def test_a_character_of_several_tokens_tells_all_of_them() -> None:
    shown = ShownTokens()
    assert shown.push("", [token("?", b"")]) == []
    assert len(shown.push("\u00fc", [token("?", "\u00fc".encode())])) == 2


def test_behind_an_echoed_prompt_the_token_that_ends_the_answer_is_told_too() -> None:
    prompt, ended = [token("Is it"), token(" A")], [token("<|im_end|>")]
    told = TextLikelihoods().push("Is it A", ended, prompt, is_last=True)
    assert isinstance(told, dict)
    assert told["tokens"] == ["Is it", " A", "<|im_end|>"]
    assert told["text_offset"] == [0, 5, 7]
    pieces = TextLikelihoods()
    pieces.push("Is it A", [], prompt)
    assert pieces.push("", ended, is_last=True)["tokens"] == ["<|im_end|>"]  # type: ignore[index,call-overload]
    assert TextLikelihoods().push("", ended, is_last=True)["tokens"] == []  # type: ignore[index,call-overload]
