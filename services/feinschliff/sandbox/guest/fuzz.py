"""The part of rapidfuzz that graders use, in plain Python: the same names and numbers, strings only."""

from __future__ import annotations

import sys
import types


def _common(first: str, second: str) -> int:
    """Length of the longest common subsequence, a word of bits per character (Hyyro 2004)."""
    places: dict[str, int] = {}
    for index, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << index
    everything = (1 << len(first)) - 1
    row = everything
    for character in second:
        match = row & places.get(character, 0)
        row = (row + match | row - match) & everything
    return len(first) - row.bit_count()


def _indel(first: str, second: str) -> int:
    return len(first) + len(second) - 2 * _common(first, second)


def _levenshtein(first: str, second: str) -> int:
    """Insertions, deletions and replacements at 1 each (Myers 1999)."""
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for index, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << index
    everything = (1 << len(first)) - 1
    last = 1 << len(first) - 1
    up, down, distance = everything, 0, len(first)
    for character in second:
        match = places.get(character, 0)
        across = ((match & up) + up ^ up) | match | down
        up_next = down | ~(across | up)
        down_next = up & across
        distance += bool(up_next & last) - bool(down_next & last)
        up_next = up_next << 1 | 1
        down_next <<= 1
        up = (down_next | ~(across | up_next)) & everything
        down = up_next & across & everything
    return distance


def _similarity(distance: int, most: int) -> float:
    return 1.0 - distance / most if most else 1.0


class Indel:
    @staticmethod
    def distance(s1: str, s2: str) -> int:
        return _indel(s1, s2)

    @staticmethod
    def normalized_similarity(s1: str, s2: str) -> float:
        return _similarity(_indel(s1, s2), len(s1) + len(s2))

    @staticmethod
    def normalized_distance(s1: str, s2: str) -> float:
        return 1.0 - _similarity(_indel(s1, s2), len(s1) + len(s2))


class Levenshtein:
    @staticmethod
    def distance(s1: str, s2: str) -> int:
        return _levenshtein(s1, s2)

    @staticmethod
    def normalized_similarity(s1: str, s2: str) -> float:
        return _similarity(_levenshtein(s1, s2), max(len(s1), len(s2)))

    @staticmethod
    def normalized_distance(s1: str, s2: str) -> float:
        return 1.0 - _similarity(_levenshtein(s1, s2), max(len(s1), len(s2)))


def ratio(s1: str, s2: str) -> float:
    """0 to 100."""
    return 100.0 * Indel.normalized_similarity(s1, s2)


def token_sort_ratio(s1: str, s2: str) -> float:
    return ratio(" ".join(sorted(s1.split())), " ".join(sorted(s2.split())))


def install() -> None:
    """Makes `rapidfuzz`, `rapidfuzz.fuzz` and `rapidfuzz.distance` importable."""
    package = types.ModuleType("rapidfuzz", __doc__)
    package.__path__ = []
    fuzz, distance = types.ModuleType("rapidfuzz.fuzz"), types.ModuleType("rapidfuzz.distance")
    for function in (ratio, token_sort_ratio):
        setattr(fuzz, function.__name__, function)
    for measure in (Indel, Levenshtein):
        setattr(distance, measure.__name__, measure)
    for name, module in (("fuzz", fuzz), ("distance", distance)):
        setattr(package, name, module)
        sys.modules[f"rapidfuzz.{name}"] = module
    sys.modules["rapidfuzz"] = package
