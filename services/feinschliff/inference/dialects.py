"""How models write calls of tools: which family a chat template belongs to, and how its calls look."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from feinschliff.kit.errors import Invalid


@dataclass(frozen=True)
class Dialect:
    """One family's calls: `opening {"name": ..., "<arguments_key>": {...}} closing`.

    Args:
        opening: stands before the calls; empty where an answer that begins with `{` is a call.
        closing: stands behind each call.
        arguments_key: name of the arguments.
        is_list: the calls are one JSON list behind `opening`.
        may_repeat: one answer can hold several calls.
        id_characters: length of a call's id that the template takes.
        also_opens: may stand before a call where nothing has to.
    """

    name: str
    opening: str
    closing: str = ""
    arguments_key: str = "arguments"
    is_list: bool = False
    may_repeat: bool = True
    id_characters: int = 24
    also_opens: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """What stands around calls; each may be a control token."""
        return tuple(text for text in (self.opening, self.closing, self.also_opens) if text)


HERMES = Dialect("hermes", "<tool_call>", "</tool_call>")
"""Hermes, Qwen and many after them."""
MISTRAL = Dialect("mistral", "[TOOL_CALLS]", is_list=True, id_characters=9)
LLAMA = Dialect("llama", "", arguments_key="parameters", may_repeat=False, also_opens="<|python_tag|>")
"""Llama 3.1 and later, with its JSON calls."""

_OTHER = ("<function=", "<arg_key>", "[ARGS]", "<|channel|>")  # calls that are no JSON objects


@lru_cache(maxsize=64)
def dialect_of(template: str) -> Dialect:
    """The family of a chat template.

    Raises:
        Invalid: TOOLS_UNSUPPORTED where it takes no tools, or has its calls written in a way that is not read here.
    """
    if not re.search(r"\btools\b", template):
        raise _unsupported("the base's chat template has no place for tools, so the model would never hear of them")
    if not any(text in template for text in _OTHER):
        if HERMES.opening in template:
            return HERMES
        if MISTRAL.opening in template:
            return MISTRAL
        if LLAMA.also_opens in template or '"parameters": ' in template:
            return LLAMA
    raise _unsupported("the base's chat template has calls written in a way that this version does not read")


def _unsupported(why: str) -> Invalid:
    return Invalid(
        "TOOLS_UNSUPPORTED",
        f"Tools cannot be used with this model: {why}.",
        advice=["Take a base whose template writes calls as Hermes, Qwen, Mistral or Llama 3 do."],
        why=why,
    )
