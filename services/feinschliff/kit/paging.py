"""Page tokens that are opaque to callers and bound to the query that made them."""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import cast

from feinschliff.kit.errors import FieldViolation, Invalid

DEFAULT_SIZE = 50
CAP = 1000

Key = tuple[str | int | float, ...]


@dataclass(frozen=True)
class Page:
    """One page of a list: how many rows, and after which sort key (None: from the start)."""

    size: int
    after: Key | None
    query: str

    @classmethod
    def open(cls, token: str, requested_size: int, *query: str, default: int = DEFAULT_SIZE, cap: int = CAP) -> "Page":
        """The page that a request asks for.

        Args:
            token: from the answer before, or empty for the first page.
            requested_size: rows wanted; 0 is `default`, more than `cap` is `cap`.
            query: whatever decides which rows and in which order: parent, filter, order.

        Raises:
            Invalid: PAGE_TOKEN_INVALID, PAGE_SIZE_INVALID.
        """
        digest = _digest(query)
        return cls(page_size(requested_size, default, cap), _after(token, digest) if token else None, digest)

    def token(self, *after: str | int | float) -> str:
        """The token for what follows the row with this sort key."""
        text = json.dumps([self.query, *after], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def page_size(requested: int, default: int = DEFAULT_SIZE, cap: int = CAP) -> int:
    if requested < 0:
        message = f"page_size is {requested}; it must be 0 (meaning {default}) or more."
        raise Invalid(
            "PAGE_SIZE_INVALID",
            message,
            fields=[FieldViolation("page_size", message, "PAGE_SIZE_INVALID")],
            page_size=requested,
        )
    return min(requested or default, cap)


def _digest(query: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(query).encode()).hexdigest()[:16]


def _after(token: str, digest: str) -> Key:
    try:
        parts = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except ValueError:
        parts = None
    if not isinstance(parts, list) or len(parts) < 2 or not all(type(part) in (str, int, float) for part in parts):
        raise _refused("The page token is not one that this service gave out.")
    if parts[0] != digest:
        raise _refused("The page token belongs to another query; keep parent, filter and order while paging.")
    return cast(Key, tuple(parts[1:]))


def _refused(message: str) -> Invalid:
    return Invalid(
        "PAGE_TOKEN_INVALID",
        message,
        fields=[FieldViolation("page_token", message, "PAGE_TOKEN_INVALID")],
        advice=["Begin again without a page token."],
    )
