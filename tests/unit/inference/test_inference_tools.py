"""The form of answers that may call strict tools: text is free, a call is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from feinschliff.inference.dialects import HERMES, LLAMA, MISTRAL, Dialect
from feinschliff.inference.engines.grammars import Grammars, showing
from feinschliff.inference.forms import Schema, form_of
from feinschliff.inference.tools import Mode, Tool, Toolbox, tool_form
from tests.support.tiny_model import make_tiny_model

SIZE = 520
EOS = 2
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"c": {"enum": ["U"]}},
    "required": ["c"],
    "additionalProperties": False,
}
LOOK = Tool("look", "", PARAMETERS, strict=True)


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    return (folder / "tokenizer.json").read_text()


def follow(tokenizer: Tokenizer, box: Toolbox, dialect: Dialect, text: str, response: Any = None) -> tuple[str, bool]:
    """How much of a text can be said, and whether the answer can end there."""
    form = tool_form(box, dialect, response, "")
    assert form is not None
    writing = Grammars(tokenizer, SIZE, [EOS]).grammar(form).begin()
    said: list[int] = []
    for token in tokenizer.encode(text, add_special_tokens=False).ids:
        if not writing.allowed(SIZE)[token]:
            break
        writing.accept(token)
        said.append(token)
    return str(tokenizer.decode(said, skip_special_tokens=False)), bool(writing.allowed(SIZE)[EOS])


def called(dialect: Dialect, count: int = 1) -> str:
    one = f'{{"name": "look", "{dialect.arguments_key}": {{"c":"U"}}}}'
    if dialect is HERMES:
        return "\n".join([f"<tool_call>\n{one}\n</tool_call>"] * count)
    return f"[TOOL_CALLS][{', '.join([one] * count)}]" if dialect is MISTRAL else one


@pytest.mark.parametrize("is_control", [False, True], ids=["text", "control"])
@pytest.mark.parametrize("dialect", [HERMES, MISTRAL, LLAMA], ids=lambda dialect: dialect.name)
def test_text_is_free_and_calls_are_not(description: str, dialect: Dialect, is_control: bool) -> None:
    tokenizer = Tokenizer.from_str(description)
    if is_control:
        tokenizer.add_special_tokens([dialect.opening or dialect.also_opens])
    box = Toolbox((LOOK,))
    assert follow(tokenizer, box, dialect, "hello {there}") == ("hello {there}", True)
    assert follow(tokenizer, box, dialect, called(dialect)) == (called(dialect), True)
    wrong = called(dialect).replace('"U"', '"X"')
    assert follow(tokenizer, box, dialect, wrong) == (wrong[: wrong.index("X")], False)
    if dialect.opening:
        behind = f"hello {called(dialect)}"
        assert follow(tokenizer, box, dialect, behind) == (behind, True)
        assert follow(tokenizer, box, dialect, f"hello {dialect.opening}what")[0] == f"hello {dialect.opening}"


@pytest.mark.parametrize(
    ("mode", "single", "calls"), [("required", False, 3), ("required", True, 1), ("function", False, 1)]
)
@pytest.mark.parametrize("dialect", [HERMES, MISTRAL], ids=lambda dialect: dialect.name)
def test_as_many_calls_as_are_wanted(description: str, dialect: Dialect, mode: Mode, single: bool, calls: int) -> None:
    tokenizer, box = Tokenizer.from_str(description), Toolbox((LOOK,), mode, "look", single)
    assert follow(tokenizer, box, dialect, "hello")[0] == ""
    whole = called(dialect, calls)
    assert follow(tokenizer, box, dialect, whole) == (whole, True)
    more = called(dialect, calls + 1)
    assert (follow(tokenizer, box, dialect, more)[0] == more) is (calls > 1)


@pytest.mark.parametrize("dialect", [HERMES, MISTRAL, LLAMA], ids=lambda dialect: dialect.name)
def test_an_answer_of_a_form_stands_beside_calls(description: str, dialect: Dialect) -> None:
    tokenizer = Tokenizer.from_str(description)
    response = form_of(Schema("r", '{"enum": [[1]]}', strict=True))
    box = Toolbox((Tool("look", "", PARAMETERS, strict=False),))
    for text in ("[1]", called(dialect)):
        assert follow(tokenizer, box, dialect, text, response) == (text, True)
    assert follow(tokenizer, box, dialect, "hello", response)[0] == ""


def test_an_answer_that_cannot_be_followed_further_may_not_end_either(description: str) -> None:
    writing = Grammars(Tokenizer.from_str(description), SIZE, [EOS]).grammar(form_of(Schema("r", "{}", True))).begin()
    writing.accept(3)  # "!" begins no JSON
    assert not writing.allowed(SIZE).any()
    assert writing.error
    assert not writing.is_complete


def test_nothing_is_constrained_where_nothing_is_strict() -> None:
    assert tool_form(Toolbox((Tool("look", "", None, strict=False),)), HERMES, None, "") is None


def test_named_control_tokens_are_shown_and_others_are_not(description: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(description)
    tokenizer.add_special_tokens(["[TOOL_CALLS]"])
    ids = tokenizer.encode("<|im_start|>a[TOOL_CALLS] b<|im_end|>", add_special_tokens=False).ids
    assert showing(tokenizer, ())(ids) == "a b"
    assert showing(tokenizer, ("[TOOL_CALLS]", "none"))(ids) == "a[TOOL_CALLS] b"
    assert showing(tokenizer, ("[TOOL_CALLS]",))([]) == ""
