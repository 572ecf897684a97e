"""Keeps the process as small as what it holds."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # from glibc's malloc.h
_LARGE_BYTES = 128 * 1024
_ARENAS_MAX = 2


def bound_heaps() -> None:
    """Makes glibc's malloc give memory back, for the whole process; elsewhere nothing happens.

    By default every core has eight heaps, and large blocks land in them once one was freed. An upload passes chunks and
    parts of megabytes through many threads, and each heap keeps the most that it ever had.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS_MAX)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
