"""Personal data taken out of a whole text: a stand-in where it stood, and nothing else changed."""

from __future__ import annotations

from collections.abc import Collection

from feinschliff.detectors.personal import RULES
from feinschliff.detectors.rule import Hit, Window

KINDS = tuple(RULES)


def redacted(text: str, kinds: Collection[str]) -> str:
    """The text with `[EMAIL]`, `[PHONE]` and the like in place of what rules of these kinds find.

    Of hits that overlap the first stands for all, as guards have it.
    """
    window = Window(text, 0, is_whole=True)
    hits = [hit for kind in KINDS if kind in kinds for rule in RULES[kind] for hit in rule.scan(window).hits]
    left, at = list[str](), 0
    for hit in sorted(hits, key=_place):
        if hit.start >= at:
            left += [text[at : hit.start], f"[{hit.rule.upper()}]"]
        at = max(at, hit.end)
    return "".join(left) + text[at:]


def _place(hit: Hit) -> int:
    return hit.start
