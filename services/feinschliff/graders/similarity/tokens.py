"""Words as the measures count them, and runs of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_13A = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")


def words_13a(text: str) -> list[str]:
    """As `mteval-v13a.pl` and sacrebleu split a line: punctuation stands alone, case stays."""
    line = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in line:
        for entity, character in _ENTITIES:
            line = line.replace(entity, character)
    line = f" {line} "
    for pattern, by in _13A:
        line = pattern.sub(by, line)
    return line.split()


def words_rouge(text: str) -> list[str]:
    """As rouge-score splits a text without its stemmer: runs of a-z and 0-9 in small letters, all else parts them."""
    return _NOT_ALPHANUMERIC.sub(" ", text.lower()).split()


def runs(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Every `n` words in a row, with how often they come."""
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))
