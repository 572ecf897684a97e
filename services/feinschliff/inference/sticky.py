"""Which of several routes a caller gets: the same one every time, and all of them by their shares."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

from feinschliff.formats.records import Message


class Share(NamedTuple):
    """A route and its weight, above 0."""

    route: str
    weight: float


def key_of_call(user: str, messages: Sequence[Message]) -> str:
    """What a call is known by: its user; else the first user turn, which a conversation keeps as it grows."""
    if user:
        return f"user {user}"
    first = next((turn.content for turn in messages if turn.role == "user" and turn.content), "")
    return f"turn {first}" if first else ""


def choose(shares: Sequence[Share], key: str) -> str:
    """The route of a key, by weighted rendezvous hashing (Thaler and Ravishankar 1998).

    Whatever else changes, a change of one weight moves keys to or from that route only.
    """
    return max(shares, key=lambda share: (share.weight / -math.log(_uniform(share.route, key)), share.route)).route


def _uniform(route: str, key: str) -> float:
    """In (0, 1), as good as drawn for each pair."""
    digest = hashlib.blake2b(f"{route}\0{key}".encode(), digest_size=7).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**56
