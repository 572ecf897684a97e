"""What the kernel `step` reads, as `step.h` declares it. Addresses are those of tensors that must outlive it."""

from __future__ import annotations

import ctypes

_POINTER, _NUMBER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float

LINEARS = ("query", "key", "value", "output", "gate", "up", "down")
"""Of a layer, in the order of the places of pairs."""


class Linear(ctypes.Structure):
    _fields_ = (*((name, _POINTER) for name in ("packed", "scales", "bias")), ("inputs", _NUMBER), ("outputs", _NUMBER))


class Layer(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("norm", "query_norm", "key_norm", "feed_forward_norm")),
        *((f"{name}_epsilon", _FLOAT) for name in ("norm", "query", "key", "feed_forward")),
        ("window", _NUMBER),
        *((name, Linear) for name in LINEARS),
    )


class Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        ("last_norm", _POINTER),
        ("head", Linear),
        *((name, _NUMBER) for name in ("count", "width", "heads", "groups", "size")),
        ("last_epsilon", _FLOAT),
        ("scale", _FLOAT),
    )


ROOMS = ("states", "normed", "more", "query", "key", "value", "attended", "gate", "up", "logits")


class Batch(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("a", "b", "ranks", "scales")),
        ("rank_max", _NUMBER),
        ("rows", _NUMBER),
        ("wanted", _POINTER),
        ("wanted_rows", _NUMBER),
        *((name, _POINTER) for name in ("caches", "capacities", "positions", "cosines", "sines")),
        *((name, _POINTER) for name in (*ROOMS, "low")),
    )
