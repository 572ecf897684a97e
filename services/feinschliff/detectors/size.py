"""How long a text may be."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from feinschliff.detectors.rule import Hit, Scan, Window


@dataclass(frozen=True)
class SizeRule:
    """One hit, from the first character too many to the end of the text, wherever that is."""

    characters_max: int
    name: str = "characters"

    def scan(self, window: Window) -> Scan:
        start = self.characters_max - window.before
        is_new = window.at <= start < len(window.text)
        return Scan([Hit(start, sys.maxsize, self.name)] if is_new else [], len(window.text))
