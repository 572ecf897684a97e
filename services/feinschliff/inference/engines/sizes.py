"""How much memory things of tensors take, beside what is there anyway."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from mmap import PAGESIZE
from typing import Any

import torch
from torch import Tensor, nn

from feinschliff.inference.engine import DeviceMemory

_MADV_PAGEOUT = 21  # madvise(2); Linux 5.4 and later


def bytes_of(thing: Any, *, beside: nn.Module | None = None) -> int:
    """Bytes of all tensors in dataclasses, mappings, sequences and modules; memory that is shared counts once.

    Args:
        beside: what it shares with this model does not count.
    """
    known = set() if beside is None else {_place(tensor) for tensor in _tensors(beside)}
    found = {_place(tensor): tensor.untyped_storage().nbytes() for tensor in _tensors(thing)}
    return sum(size for place, size in found.items() if place not in known)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, nn.Module):
        yield from thing.parameters()
        yield from thing.buffers()
    elif dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            yield from _tensors(getattr(thing, field.name))
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from _tensors(value)
    elif isinstance(thing, Collection) and not isinstance(thing, str | bytes):
        for value in thing:
            yield from _tensors(value)


def memory_of(device: torch.device) -> DeviceMemory | None:
    if device.type != "cuda":
        return None
    free_bytes, bytes_max = torch.cuda.mem_get_info(device)
    return DeviceMemory(str(device), bytes_max - free_bytes, bytes_max)


def page_out(tensors: Iterable[Tensor]) -> None:
    """Lets go of memory that lies in files too, unchanged: it comes back by itself when somebody reads it.

    The system decides; where it cannot (no Linux, weights that were copied), all stays as it is.
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is None or sys.platform != "linux":
        return
    for tensor in tensors:
        first = -(-tensor.data_ptr() // PAGESIZE) * PAGESIZE
        length = (tensor.data_ptr() + tensor.nbytes - first) // PAGESIZE * PAGESIZE
        if length > 0:
            advise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_PAGEOUT)


def give_back_memory() -> None:
    """Freed weights go back to the system: glibc keeps hundreds of MB of them otherwise."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
