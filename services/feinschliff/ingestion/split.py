"""Which split a row belongs to: decided by its content and a seed, so it stays there when the data grows."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from feinschliff.kit.errors import FieldViolation, Invalid

SPLITS = ("train", "validation", "test")
_SPACE = 2**64


@dataclass(frozen=True)
class Split:
    """Shares of the rows, each 0 to 1 and together 1; another seed divides differently."""

    train: float = 0.9
    validation: float = 0.1
    test: float = 0.0
    seed: int = 0

    @property
    def fractions(self) -> Mapping[str, float]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def checked_split(split: Split) -> Split:
    """The split itself.

    Raises:
        Invalid: SPLIT_INVALID where a share is not 0 to 1, or they do not sum to 1 within 1e-6.
    """
    wrong = [name for name, share in split.fractions.items() if not 0 <= share <= 1]
    message = "Each share of a split is 0 to 1, and the three sum to 1."
    if wrong or not math.isclose(sum(split.fractions.values()), 1, abs_tol=1e-6):
        fields = [FieldViolation(f"split.{name}_fraction", message, "SPLIT_INVALID") for name in wrong or SPLITS]
        raise Invalid("SPLIT_INVALID", message, fields=fields, split=split)
    return split


class Divider:
    """Gives each row its split from its content digest: equal rows stay together, and a row never moves."""

    def __init__(self, split: Split) -> None:
        self._salt = hashlib.sha256(f"split/{split.seed}".encode()).digest()
        shares = {name: share for name, share in split.fractions.items() if share > 0}
        self._names = tuple(shares)
        ends = [round(end * _SPACE) for end in accumulate(shares.values())]
        self._borders = ends[:-1]

    def split_of(self, content_digest: bytes) -> str:
        place = int.from_bytes(hashlib.sha256(self._salt + content_digest).digest()[:8])
        return self._names[bisect_right(self._borders, place)]
