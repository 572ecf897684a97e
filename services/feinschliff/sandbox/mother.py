"""A process that holds one started interpreter and forks a sealed copy of it for every call.

A copy shares all memory with its mother until it writes, so a fresh interpreter costs a millisecond, and nothing that
a call did is there for the next one. The mother runs no foreign code. It knows one connection, and ends with it.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import wasmtime

from feinschliff.sandbox import confine, frames
from feinschliff.sandbox.guest import fuzz, harness
from feinschliff.sandbox.machine import engine
from feinschliff.sandbox.wasi import OUTPUT_EXCEEDED, Ended, Guest

ALARM_SECONDS = 2.0
"""After its deadline a copy ends by itself, should nobody have killed it."""
_PRELUDE = """
import sys, types, json, math, re, traceback, linecache, io, random, collections, itertools, functools, statistics
import numpy
def _load(name, source):
    module = types.ModuleType(name)
    exec(compile(source, f'<{{name}}>', 'exec'), module.__dict__)
    return module
sys.modules['_harness'] = _load('_harness', {harness!r})
_load('_fuzz', {fuzz!r}).install()
del _load
"""
_RUN = "__import__('_harness').run({payload!r})"


class Arguments(NamedTuple):
    """From the pool, as JSON: `libraries` are zips by the name that the guest sees, first the standard library."""

    connection: int
    code: str
    libraries: dict[str, str]
    memory_bytes: int


class Interpreter:
    """One instance with Python started and everything loaded that calls begin with."""

    def __init__(self, arguments: Arguments) -> None:
        made = engine()
        module = wasmtime.Module.deserialize_file(made, arguments.code)
        self._store = wasmtime.Store(made)
        self._store.set_limits(memory_size=arguments.memory_bytes)
        libraries = {name.encode(): _mapped(Path(path)) for name, path in arguments.libraries.items()}
        self.guest = Guest(self._store, libraries)
        self._linker = self.guest.linker(made)
        self._exports = self._linker.instantiate(self._store, module).exports(self._store)
        memory = self._exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        self.guest.bind(memory)
        for name in list(arguments.libraries)[1:]:
            self.turn(f"import sys; sys.path.append('/usr/local/lib/{name}')")
        sources = {one.__name__.rpartition(".")[2]: _source(one.__file__) for one in (harness, fuzz)}
        if self.turn(_PRELUDE.format(**sources)) != 0:
            raise RuntimeError(bytes(self.guest.streams[2]).decode("utf-8", "replace"))

    def turn(self, source: str) -> int:
        content = source.encode()
        allocate, turn = self._exports["host_alloc"], self._exports["turn"]
        assert isinstance(allocate, wasmtime.Func)
        assert isinstance(turn, wasmtime.Func)
        at = allocate(self._store, len(content))
        if not at:
            raise MemoryError
        self.guest.write(at, content)
        status: int = turn(self._store, at, len(content))
        return status


def serve(arguments: Arguments) -> None:
    confine.become_background()
    interpreter = Interpreter(arguments)
    gc.collect()
    gc.freeze()  # or a collection in a copy would write to every page
    copy = Copy(interpreter)
    frames.write(arguments.connection, frames.pack(frames.READY, b"sealed" if copy.is_sealed else b"unsealed"))
    while True:
        try:
            _, seconds, payload = frames.read(arguments.connection)
            frames.write(arguments.connection, copy.run(payload, seconds))
        except frames.Lost:
            copy.end()
            return
        copy = Copy(interpreter)


class Copy:
    """One forked interpreter, waiting for the only call that it will ever run."""

    def __init__(self, interpreter: Interpreter) -> None:
        call_end, self._calls = os.pipe()
        self._answers, answer_end = os.pipe()
        mother = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _be_copy(interpreter, call_end, answer_end, mother)
        os.close(call_end)
        os.close(answer_end)
        kind, _, content = frames.read(self._answers)
        assert kind == frames.READY
        self.is_sealed = content == b"sealed"

    def run(self, payload: bytes, seconds: float) -> bytes:
        """The frame for the pool: an answer, or that there was none in time, or how it died."""
        try:
            frames.write(self._calls, frames.pack(frames.CALL, payload, seconds))
            _, _, content = frames.read(self._answers, seconds)
        except frames.Late:
            self.end()
            return frames.pack(frames.LATE, b"")
        except frames.Lost:
            return frames.pack(frames.CRASHED, str(self.end()).encode())
        self.end()
        return frames.pack(frames.ANSWER, content)

    def end(self) -> int:
        """Its exit code, or minus the signal that it died of; never leaves it behind."""
        os.close(self._calls)
        os.close(self._answers)
        os.kill(self._pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def _be_copy(interpreter: Interpreter, calls: int, answers: int, mother: int) -> None:
    try:
        confine.die_with(mother)
        is_sealed = confine.seal((calls, answers))
        frames.write(answers, frames.pack(frames.READY, b"sealed" if is_sealed else b"unsealed"))
        _, seconds, payload = frames.read(calls)
        signal.setitimer(signal.ITIMER_REAL, seconds + ALARM_SECONDS)
        frames.write(answers, frames.pack(frames.ANSWER, _run(interpreter, payload.decode())))
    finally:
        os._exit(0)


def _run(interpreter: Interpreter, payload: str) -> bytes:
    guest = interpreter.guest
    for stream in guest.streams.values():
        stream.clear()
    fault, why = "", ""
    try:
        interpreter.turn(_RUN.format(payload=payload))
    except Ended as ended:
        why = str(ended)
        fault = "output" if why == OUTPUT_EXCEEDED else "source"
    except MemoryError:
        fault, why = "memory", "The call does not fit into the memory that it may have."
    except (wasmtime.WasmtimeError, wasmtime.Trap) as trap:
        fault, why = "crash", f"The interpreter gave up: {str(trap).splitlines()[-1].strip()}."
    printed = b"".join(bytes(stream) for stream in guest.streams.values())
    told = {"fault": fault, "why": why, "answer": _text(guest.answer), "printed": _text(printed)}
    return json.dumps(told).encode()


def _text(content: bytes | bytearray) -> str:
    return bytes(content).decode("utf-8", "replace")


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def _source(path: str | None) -> str:
    assert path is not None
    return Path(path).read_text("utf-8")


if __name__ == "__main__":
    serve(Arguments(**json.loads(sys.argv[1])))
