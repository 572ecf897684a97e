"""Files to upload."""

from __future__ import annotations

import orjson


def chat_rows(count: int, *, word: str = "hello") -> bytes:
    """`count` good rows; `word` makes files differ."""
    return b"".join(
        orjson.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"{word} {number}"},
                    {"role": "assistant", "content": f"greeting {number}"},
                ]
            }
        )
        + b"\n"
        for number in range(count)
    )
