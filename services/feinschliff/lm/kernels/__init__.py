"""Small steps of decoding in plain C (`decode.c`), built once for a machine and called without a framework's cost.

An image brings them built (`python -m feinschliff.lm.kernels FOLDER`); elsewhere they are compiled when an engine
first needs them, in seconds, and kept in the cache. Without a C compiler there are none, and a model runs its own pass.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
BROUGHT = HERE / "built"
SOURCES = ("decode.c", "attention.h", "decode.h", "product.h", "step.h")
# No sum is reordered but where the source says `omp simd`, so a build gives the same numbers for every batch.
FLAGS = ("-std=c11", "-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_SECONDS_MAX = 120.0
_V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx2", "fma", "bmi2", "f16c"}
_LEVELS = {  # of x86-64, the best first: what the processor must have
    "x86-64-v4-bf16": _V4 | {"avx512_bf16"},
    "x86-64-v4": _V4,
    "x86-64-v3": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"},
    "x86-64-v2": {"sse4_2", "ssse3", "popcnt"},
}
_POINTER, _NUMBER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS: dict[str, list[Any]] = {
    "add_rms_norm": [*[_POINTER] * 4, _NUMBER, _NUMBER, _FLOAT],
    "silu_mul": [_POINTER, _POINTER, _NUMBER],
    "store": [*[_POINTER] * 8, *[_NUMBER] * 5],
    "attend": [*[_POINTER] * 5, *[_NUMBER] * 6, _FLOAT],
    "add_low_rank": [*[_POINTER] * 7, *[_NUMBER] * 4],
    "multiply": [*[_POINTER] * 5, *[_NUMBER] * 3],
    "step": [_POINTER, _POINTER],
    "likeliest": [_POINTER, _POINTER, _NUMBER, _NUMBER],
}

SHARED_MAX, HEAD_MAX = 16, 256
"""Query heads of one key head, and numbers of a head, that `attend` takes."""


PANEL_OUTPUTS = 32
"""Outputs that packed weights hold side by side; their number is rounded up to it."""

UNIT_BYTES = 4
"""Of an output's weights that lie together in a panel: (panels, inputs / those of a unit, PANEL_OUTPUTS) units."""


class Kernels(NamedTuple):
    """The functions for one type of numbers; what they do stands in the headers. Tensors go as addresses.

    Args:
        number_bytes: of one number.
        multiplies: whether `multiply`, and so `step`, is as fast here as the library's products.
    """

    add_rms_norm: Callable[..., None]
    silu_mul: Callable[..., None]
    attend: Callable[..., None]
    store: Callable[..., None]
    add_low_rank: Callable[..., None]
    multiply: Callable[..., None]
    step: Callable[..., None]
    likeliest: Callable[..., None]
    number_bytes: int
    multiplies: bool


class NoCompiler(Exception):
    """Nothing here can build the kernels."""


def load(precision: str, cache_dir: Path, *, threads: int) -> Kernels | None:
    """The kernels for `bf16` or `fp32`; None where none are built and nothing here can build them, which is logged."""
    try:
        library = _library(cache_dir)
    except (NoCompiler, OSError) as error:
        logger.warning("decoding takes the model's own forward pass, some 3 times slower: %s", error)
        return None
    library.use_threads(*_borrowed_threads(), threads)
    functions = {name: _function(library, f"{name}_{precision}", given) for name, given in _ARGUMENTS.items()}
    return Kernels(**functions, number_bytes={"bf16": 2, "fp32": 4}[precision], multiplies=_multiplies(precision))


def level() -> str:
    """The set of instructions to build for: the best x86-64 level of this machine, or the plain processor's name."""
    machine = platform.machine()
    if machine != "x86_64":
        return machine
    flags = _processor_flags()
    return next((name for name, needed in _LEVELS.items() if needed <= flags), machine)


def build(target: Path, for_level: str) -> None:
    """Compiles the kernels for a level into a file, which is there whole or not at all."""
    command = [*_compiler(), *FLAGS, *_level_flags(for_level)]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, target.name)
        try:
            subprocess.run(
                [*command, "-o", str(made), str(HERE / SOURCES[0]), "-lm"],
                check=True,
                capture_output=True,
                text=True,
                timeout=_SECONDS_MAX,
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip()[-500:]
            raise NoCompiler(f"{command[0]} cannot build the kernels: {said}") from error
        made.replace(target)


def levels_of(machine: str) -> Sequence[str]:
    """All levels that an image for a kind of processor brings."""
    return (*_LEVELS, machine) if machine == "x86_64" else (machine,)


def file_name(for_level: str) -> str:
    """Says the sources, so that a library of other sources is never taken."""
    found = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in SOURCES) + " ".join(FLAGS).encode())
    return f"decode-{for_level}-{found.hexdigest()[:16]}.so"


@functools.lru_cache
def _library(cache_dir: Path) -> ctypes.CDLL:
    name = file_name(level())
    brought, made = BROUGHT / name, cache_dir / "kernels" / name
    if not brought.is_file() and not made.is_file():
        build(made, level())
    return ctypes.CDLL(str(brought if brought.is_file() else made))


def _function(library: ctypes.CDLL, name: str, arguments: Sequence[Any]) -> Callable[..., None]:
    function = getattr(library, name)
    function.argtypes, function.restype = arguments, None
    return function  # type: ignore[no-any-return]


def _multiplies(precision: str) -> bool:
    """Registers of 512 bits make our products as fast as a library's; units for tiles (AMX) only the library uses."""
    return level().startswith("x86-64-v4") and not (precision == "bf16" and "amx_bf16" in _processor_flags())


def _borrowed_threads() -> tuple[ctypes.c_void_p | None, ctypes.c_void_p | None]:
    """The entries of the OpenMP that torch has loaded; without it the kernels run on one thread."""
    import torch

    folder = Path(torch.__file__).parent / "lib"
    for path in (*sorted(folder.glob("libgomp*.so*")), "libgomp.so.1"):
        try:
            library = ctypes.CDLL(str(path))
            entries = library.GOMP_parallel, library.omp_get_num_threads
        except (OSError, AttributeError):
            continue
        return ctypes.cast(entries[0], ctypes.c_void_p), ctypes.cast(entries[1], ctypes.c_void_p)
    logger.warning("no OpenMP beside torch: the kernels of decoding run on one thread")
    return None, None


def _compiler() -> list[str]:
    wanted = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    if found := next((path for name in wanted if name and (path := shutil.which(name))), None):
        return [found]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise NoCompiler("there is no C compiler (cc, gcc, clang, or the package ziglang)")


def _level_flags(for_level: str) -> list[str]:
    if for_level not in _LEVELS:
        return []
    plain, bf16 = for_level.removesuffix("-bf16"), for_level.endswith("-bf16")
    if "ziglang" in _compiler():
        return [f"-mcpu={plain.replace('-', '_')}{'+avx512bf16' if bf16 else ''}"]
    wide = ["-mprefer-vector-width=512"] if plain == "x86-64-v4" else []
    return [f"-march={plain}", *wide, *(["-mavx512bf16"] if bf16 else [])]


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())
