"""What differs between a page as it is stored and as it should be, in the fewest lines."""

from __future__ import annotations

from difflib import unified_diff


def differences(stored: str, wanted: str) -> str:
    """Empty where both are equal; else a diff without context, `-` for what is stored."""
    lines = unified_diff(stored.splitlines(), wanted.splitlines(), "stored", "wanted", n=0, lineterm="")
    return "\n".join(lines)
