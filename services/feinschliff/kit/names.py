"""Resource names such as `projects/{project}/datasets/{dataset}`: taken apart, put together, ids made."""

import re
import secrets
from collections.abc import Callable
from functools import lru_cache

from feinschliff.kit.errors import FieldViolation, Invalid

ID_RULE = "[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?"
ID_WORDS = "1 to 64 of a-z, 0-9, '.', '_' and '-', the first and last a letter or digit"
_ID = re.compile(ID_RULE)
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def parse(pattern: str, name: str, *, field: str = "name") -> dict[str, str]:
    """The ids in `name`, by the placeholders of `pattern`.

    Raises:
        Invalid: NAME_MALFORMED, naming `field` and the expected form.
    """
    match = _compiled(pattern).fullmatch(name)
    if match is None:
        message = f"{name[:200]!r} is not of the form {pattern}."
        raise Invalid(
            "NAME_MALFORMED",
            message,
            fields=[FieldViolation(field, message, "NAME_MALFORMED")],
            advice=[f"Each id is {ID_WORDS}."],
            name=name[:200],
            pattern=pattern,
        )
    return match.groupdict()


def matches(pattern: str, name: str) -> bool:
    return _compiled(pattern).fullmatch(name) is not None


def build(pattern: str, **ids: str | int) -> str:
    """The name with each placeholder filled; an id that breaks the rule is refused as in `parse`."""
    name = pattern.format(**ids)
    parse(pattern, name)
    return name


def check_id(value: str, *, field: str) -> str:
    """`value` if it is a well-formed id, else Invalid NAME_MALFORMED naming `field`."""
    if _ID.fullmatch(value):
        return value
    message = f"{value[:200]!r} is not an id: {ID_WORDS}."
    raise Invalid(
        "NAME_MALFORMED", message, fields=[FieldViolation(field, message, "NAME_MALFORMED")], name=value[:200]
    )


def new_id(prefix: str = "", *, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """`prefix` and 16 characters from 80 random bits; safe in names, URLs and Kubernetes object names."""
    number = int.from_bytes(random_bytes(10), "big")
    return prefix + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(75, -1, -5))


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    text = "".join(re.escape(part) if index % 2 == 0 else f"(?P<{part}>{ID_RULE})" for index, part in enumerate(parts))
    return re.compile(text)
