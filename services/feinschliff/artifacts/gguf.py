"""Reads a GGUF file's metadata, and only what is asked for: the weights are never touched."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

from feinschliff.kit.errors import Invalid

Scalar = int | float | bool | str

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY, _BOOL = 8, 9, 7
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_KEYS_MAX = 100_000


class _Place(NamedTuple):
    """Where a value lies: its type, for arrays its items' type and number, and the offset of the first byte."""

    kind: int
    item_kind: int
    items: int
    offset: int


class GgufMetadata:
    """The keys of a GGUF file; values are decoded when they are asked for.

    Opening walks over the keys in the mapped file, a few milliseconds and no copy of the large arrays.

    Raises:
        Invalid: GGUF_UNREADABLE, the file is no GGUF, is cut off, or is of an unknown version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as source:
            try:
                self._data = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise self._unreadable("it is empty") from error
        try:
            self._places, self._after_keys = self._walk()
        except (struct.error, IndexError, KeyError) as error:
            raise self._unreadable("it is cut off or damaged") from error

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def scalar(self, key: str) -> Scalar | None:
        """A number, truth value or text; None if the key is missing or an array."""
        place = self._places.get(key)
        if place is None or place.kind == _ARRAY:
            return None
        if place.kind == _STRING:
            return self._text(place.offset)[0]
        value: Scalar = struct.unpack_from("<" + _FORMATS[place.kind], self._data, place.offset)[0]
        return value

    def text(self, key: str) -> str | None:
        value = self.scalar(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        value = self.scalar(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def texts(self, key: str) -> list[str]:
        """An array of texts; empty if the key is missing."""
        place = self._places.get(key)
        if place is None or (place.kind, place.item_kind) != (_ARRAY, _STRING):
            return []
        texts, offset = [], place.offset
        for _ in range(place.items):
            text, offset = self._text(offset)
            texts.append(text)
        return texts

    def integers(self, key: str) -> list[int]:
        """An array of whole numbers; empty if the key is missing."""
        place = self._places.get(key)
        if place is None or place.kind != _ARRAY or place.item_kind in (_STRING, _ARRAY, _BOOL, 6, 12):
            return []
        return list(struct.unpack_from(f"<{place.items}{_FORMATS[place.item_kind]}", self._data, place.offset))

    def count(self, key: str) -> int:
        """How many items an array has; 0 if the key is missing."""
        place = self._places.get(key)
        return place.items if place is not None and place.kind == _ARRAY else 0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape by its name, the outermost axis first, as PyTorch counts them."""
        (tensors,) = struct.unpack_from("<Q", self._data, 8)
        found, offset = {}, self._after_keys
        try:
            for _ in range(tensors):
                name, offset = self._text(offset)
                (axes,) = struct.unpack_from("<I", self._data, offset)
                found[name] = tuple(reversed(struct.unpack_from(f"<{axes}Q", self._data, offset + 4)))
                offset += 4 + 8 * axes + 4 + 8  # the axes, then the type and where the numbers lie
        except struct.error as error:
            raise self._unreadable("it is cut off or damaged") from error
        return found

    def _walk(self) -> tuple[dict[str, _Place], int]:
        magic, version, _tensors, keys = struct.unpack_from("<4sIQQ", self._data)
        if magic != _MAGIC or version not in _VERSIONS or keys > _KEYS_MAX:
            raise self._unreadable(f"it does not begin like a GGUF of version {_VERSIONS}")
        places, offset = {}, 24
        for _ in range(keys):
            key, offset = self._text(offset)
            (kind,) = struct.unpack_from("<I", self._data, offset)
            places[key], offset = self._skip(kind, offset + 4)
            if offset > len(self._data):
                raise IndexError(offset)
        return places, offset

    def _skip(self, kind: int, offset: int) -> tuple[_Place, int]:
        if kind == _STRING:
            return _Place(kind, kind, 1, offset), self._after_text(offset)
        if kind != _ARRAY:
            return _Place(kind, kind, 1, offset), offset + struct.calcsize(_FORMATS[kind])
        item_kind, count = struct.unpack_from("<IQ", self._data, offset)
        place, offset = _Place(kind, item_kind, count, offset + 12), offset + 12
        if item_kind == _STRING:
            for _ in range(count):
                offset = self._after_text(offset)
            return place, offset
        return place, offset + count * struct.calcsize(_FORMATS[item_kind])

    def _after_text(self, offset: int) -> int:
        after: int = offset + 8 + struct.unpack_from("<Q", self._data, offset)[0]
        return after

    def _text(self, offset: int) -> tuple[str, int]:
        after = self._after_text(offset)
        try:
            return self._data[offset + 8 : after].decode("utf-8"), after
        except UnicodeDecodeError as error:
            raise self._unreadable("it holds text that is no UTF-8") from error

    def _unreadable(self, why: str) -> Invalid:
        return Invalid("GGUF_UNREADABLE", f"{self._path.name} cannot be read: {why}.", file=self._path.name, why=why)
