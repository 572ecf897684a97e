"""Which rows are equal: their answers repeat each other, wherever in the data they stand; pure."""

from __future__ import annotations

import hashlib

import orjson

from feinschliff.graders.grade import Item

NAMES = frozenset(("line", "id"))
"""Fields that say which row it is, and nothing of what is in it."""
ANSWERED = frozenset(("messages", "completion"))
"""Of a conversation `prompt` is what is asked; these hold what was answered, too."""


def row_key(item: Item) -> str:
    """32 hex digits, the same for rows with the same content; a conversation's is what comes before its answer."""
    left_out = NAMES | ANSWERED if isinstance(item.get("messages"), list) else NAMES
    content = {name: value for name, value in item.items() if name not in left_out}
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
