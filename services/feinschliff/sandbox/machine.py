"""How machine code is made of WebAssembly; whoever compiles and whoever runs must say the same."""

from __future__ import annotations

import sys

import wasmtime

from feinschliff.sandbox.level import STACK_BYTES, is_levelled

# x86-64-v2, which every processor of the last ten years has: what an image's build compiles runs wherever it is pulled.
_LEVEL = ("has_sse3", "has_ssse3", "has_cmpxchg16b", "has_sse41", "has_sse42", "has_popcnt")


def engine() -> wasmtime.Engine:
    """Deadlines are kept by killing the process, so the code needs no checks for them, and runs faster."""
    config = wasmtime.Config()
    config.native_unwind_info = False
    config.max_wasm_stack = STACK_BYTES
    if sys.platform == "darwin":
        config.macos_use_mach_ports = False  # they do not survive a fork
    if is_levelled():
        config.target = "x86_64-unknown-linux-gnu"
        for feature in _LEVEL:
            config.cranelift_flag_enable(feature)
    return wasmtime.Engine(config)
