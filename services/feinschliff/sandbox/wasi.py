"""All that a sealed interpreter can ask of us: 44 functions, of which most answer that there is no such thing."""

from __future__ import annotations

import ctypes
import mmap
import struct
import time
from collections.abc import Callable, Mapping

import wasmtime

from feinschliff.sandbox.guest.harness import ANSWER

LIBRARY_FOLDER = b"/usr/local/lib"
OUTPUT_BYTES_MAX = 1024 * 1024
"""Written by one run, to all streams together; beyond, it ends."""
KEPT_BYTES = 8 * 1024
"""Of one stream: its end."""
ANSWER_BYTES_MAX = 32 * 1024
_OPEN_FILES_MAX = 64
_PATH_BYTES_MAX = 4096
_VECTORS_MAX = 1024

# Error numbers, file types and the shapes of WASI preview 1.
_OK, _BADF, _FAULT, _INVAL, _NOENT, _NOSYS, _ROFS, _SPIPE, _MFILE, _NAMETOOLONG = 0, 8, 21, 28, 44, 52, 69, 70, 33, 37
_DEVICE, _FOLDER, _FILE = 2, 3, 4
_FDSTAT, _FILESTAT = struct.Struct("<BxHxxxxQQ"), struct.Struct("<QQB7xQQQQQ")
_U32, _U64, _VECTOR = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<II")
_SUBSCRIPTION, _EVENT = struct.Struct("<QB7xIxxxxQQH6x"), struct.Struct("<QHB5xQH6x")
_ALL_RIGHTS, _RIGHT_TO_WRITE = 0x1FFFFFFF, 0x40
_MASK = 0xFFFFFFFF
_WAIT_NS_MAX = 3600 * 10**9
_ROOT = 3
_FIRST_FILE = 4
# `i` is 32 bits, `I` is 64; every one but proc_exit gives an error number.
_SIGNATURES = """
call iiii|args_get ii|args_sizes_get ii|environ_get ii|environ_sizes_get ii|clock_res_get ii|clock_time_get iIi
fd_advise iIIi|fd_close i|fd_datasync i|fd_fdstat_get ii|fd_fdstat_set_flags ii|fd_filestat_get ii
fd_filestat_set_size iI|fd_filestat_set_times iIIi|fd_pread iiiIi|fd_prestat_get ii|fd_prestat_dir_name iii
fd_pwrite iiiIi|fd_read iiii|fd_readdir iiiIi|fd_seek iIii|fd_sync i|fd_tell ii|fd_write iiii
path_create_directory iii|path_filestat_get iiiii|path_filestat_set_times iiiiIIi|path_link iiiiiii
path_open iiiiiIIii|path_readlink iiiiii|path_remove_directory iii|path_rename iiiiii|path_symlink iiiii
path_unlink_file iii|poll_oneoff iiii|proc_exit i|sched_yield|random_get ii|sock_accept iii|sock_recv iiiiii
sock_send iiiii|sock_shutdown ii
"""


class Ended(Exception):
    """The guest asked to end, or met a limit; unwinds it."""


class OutOfBounds(Exception):
    """The guest named memory that it does not have."""


class Guest:
    """The host's side of one instance: a read-only library, a clock, and bounded streams.

    Args:
        library: the files of `LIBRARY_FOLDER` by name.
    """

    def __init__(self, store: wasmtime.Store, library: Mapping[bytes, mmap.mmap]) -> None:
        self._store = store
        self._library = library
        self._memory: wasmtime.Memory | None = None
        self._open: dict[int, tuple[mmap.mmap, int]] = {}
        self._written = 0
        self._random = 0
        self.streams = {1: bytearray(), 2: bytearray()}
        self.answer = bytearray()

    def bind(self, memory: wasmtime.Memory) -> None:
        self._memory = memory

    def linker(self, engine: wasmtime.Engine) -> wasmtime.Linker:
        kinds = {"i": wasmtime.ValType.i32(), "I": wasmtime.ValType.i64()}
        linker = wasmtime.Linker(engine)
        for line in _SIGNATURES.replace("\n", "|").strip("|").split("|"):
            name, _, parameters = line.partition(" ")
            results = [] if name == "proc_exit" else [kinds["i"]]
            module = "host" if name == "call" else "wasi_snapshot_preview1"
            kind = wasmtime.FuncType([kinds[one] for one in parameters], results)
            linker.define_func(module, name, kind, self._answering(name))
        return linker

    def _answering(self, name: str) -> Callable[..., int | None]:
        function = getattr(self, f"_{name}", None)
        if function is None:
            return lambda *_: _ROFS if name.startswith("path_") else _NOSYS

        def answer(*arguments: int) -> int | None:
            try:
                result: int | None = function(*arguments)
            except OutOfBounds:
                return _FAULT
            return result

        return answer

    # ---- memory of the guest ------------------------------------------------------------------------------------

    def _place(self, pointer: int, size: int) -> int:
        assert self._memory is not None
        pointer &= _MASK
        if size < 0 or pointer + size > self._memory.data_len(self._store):
            raise OutOfBounds
        base = ctypes.cast(self._memory.data_ptr(self._store), ctypes.c_void_p).value or 0
        return base + pointer

    def read(self, pointer: int, size: int) -> bytes:
        return ctypes.string_at(self._place(pointer, size), size)

    def write(self, pointer: int, content: bytes) -> None:
        ctypes.memmove(self._place(pointer, len(content)), content, len(content))

    def _vectors(self, pointer: int, count: int) -> list[tuple[int, int]]:
        if not 0 <= count <= _VECTORS_MAX:
            raise OutOfBounds
        return list(_VECTOR.iter_unpack(self.read(pointer, count * _VECTOR.size)))

    # ---- words and time -----------------------------------------------------------------------------------------

    def _args_sizes_get(self, count: int, size: int) -> int:
        self.write(count, _U32.pack(1))
        self.write(size, _U32.pack(len(b"python\0")))
        return _OK

    def _args_get(self, pointers: int, text: int) -> int:
        self.write(pointers, _U32.pack(text & _MASK))
        self.write(text, b"python\0")
        return _OK

    def _environ_sizes_get(self, count: int, size: int) -> int:
        self.write(count, _U32.pack(0))
        self.write(size, _U32.pack(0))
        return _OK

    def _environ_get(self, pointers: int, text: int) -> int:
        return _OK

    def _clock_time_get(self, clock: int, precision: int, at: int) -> int:
        self.write(at, _U64.pack(time.time_ns() if clock == 0 else time.monotonic_ns()))
        return _OK

    def _clock_res_get(self, clock: int, at: int) -> int:
        self.write(at, _U64.pack(1000))
        return _OK

    def _random_get(self, pointer: int, size: int) -> int:
        """The same bytes in every run, so that a grade does not depend on luck; nothing secret lies inside."""
        size &= _MASK
        place = self._place(pointer, size)
        for start in range(0, size, 4096):
            self._random = (self._random * 6364136223846793005 + 1442695040888963407) % 2**64
            chunk = (self._random >> 8).to_bytes(7, "little") * (4096 // 7 + 1)
            ctypes.memmove(place + start, chunk, min(4096, size - start))
        return _OK

    def _sched_yield(self) -> int:
        return _OK

    def _proc_exit(self, code: int) -> None:
        raise Ended(f"The function ended its process with code {code & _MASK}.")

    def _poll_oneoff(self, subscriptions: int, events: int, count: int, done: int) -> int:
        """Waits as asked; the deadline of the run ends it all the same."""
        if not 0 < count <= _VECTORS_MAX:
            return _INVAL
        asked = list(_SUBSCRIPTION.iter_unpack(self.read(subscriptions, count * _SUBSCRIPTION.size)))
        waits = [_wait_ns(clock, timeout, flags) for _, tag, clock, timeout, _, flags in asked if tag == 0]
        if len(waits) == len(asked):  # a descriptor is ready at once
            time.sleep(min(max(0, min(waits)), _WAIT_NS_MAX) / 1e9)
        told = b"".join(_EVENT.pack(data, 0, tag, 0, 0) for data, tag, *_ in asked)
        self.write(events, told)
        self.write(done, _U32.pack(len(asked)))
        return _OK

    # ---- files: the library, and three streams ------------------------------------------------------------------

    def _fd_prestat_get(self, fd: int, at: int) -> int:
        if fd != _ROOT:
            return _BADF
        self.write(at, _VECTOR.pack(0, len(LIBRARY_FOLDER)))
        return _OK

    def _fd_prestat_dir_name(self, fd: int, at: int, size: int) -> int:
        if fd != _ROOT or size < len(LIBRARY_FOLDER):
            return _BADF
        self.write(at, LIBRARY_FOLDER)
        return _OK

    def _kind(self, fd: int) -> int | None:
        return _DEVICE if 0 <= fd < _ROOT else _FOLDER if fd == _ROOT else _FILE if fd in self._open else None

    def _fd_fdstat_get(self, fd: int, at: int) -> int:
        kind = self._kind(fd)
        if kind is None:
            return _BADF
        self.write(at, _FDSTAT.pack(kind, 0, _ALL_RIGHTS, _ALL_RIGHTS))
        return _OK

    def _fd_filestat_get(self, fd: int, at: int) -> int:
        kind = self._kind(fd)
        if kind is None:
            return _BADF
        size = len(self._open[fd][0]) if kind == _FILE else 0
        self.write(at, _FILESTAT.pack(0, fd, kind, 1, size, 0, 0, 0))
        return _OK

    def _path_filestat_get(self, fd: int, flags: int, path: int, size: int, at: int) -> int:
        if size > _PATH_BYTES_MAX:
            return _NAMETOOLONG
        name = self.read(path, size)
        if fd != _ROOT:
            return _BADF
        if name == b".":
            return self._fd_filestat_get(_ROOT, at)
        if name not in self._library:
            return _NOENT
        self.write(at, _FILESTAT.pack(0, _FIRST_FILE, _FILE, 1, len(self._library[name]), 0, 0, 0))
        return _OK

    def _path_open(
        self, fd: int, lookup: int, path: int, size: int, flags: int, rights: int, inherited: int, mode: int, at: int
    ) -> int:
        if size > _PATH_BYTES_MAX:
            return _NAMETOOLONG
        name = self.read(path, size)
        if fd != _ROOT or name not in self._library:
            return _BADF if fd != _ROOT else _NOENT
        if flags or mode or rights & _RIGHT_TO_WRITE:
            return _ROFS
        free = next((one for one in range(_FIRST_FILE, _FIRST_FILE + _OPEN_FILES_MAX) if one not in self._open), None)
        if free is None:
            return _MFILE
        self._open[free] = (self._library[name], 0)
        self.write(at, _U32.pack(free))
        return _OK

    def _fd_close(self, fd: int) -> int:
        return _OK if self._open.pop(fd, None) is not None or 0 <= fd < _ROOT else _BADF

    def _fd_read(self, fd: int, vectors: int, count: int, at: int) -> int:
        if fd == 0:
            self.write(at, _U32.pack(0))
            return _OK
        if fd not in self._open:
            return _BADF
        content, start = self._open[fd]
        position = start
        for pointer, size in self._vectors(vectors, count):
            piece = content[position : position + size]
            self.write(pointer, piece)
            position += len(piece)
        self._open[fd] = (content, position)
        self.write(at, _U32.pack(position - start))
        return _OK

    def _fd_seek(self, fd: int, offset: int, whence: int, at: int) -> int:
        if fd not in self._open:
            return _SPIPE if 0 <= fd < _ROOT else _BADF
        content, position = self._open[fd]
        start = {0: 0, 1: position, 2: len(content)}.get(whence)
        if start is None or start + offset < 0:
            return _INVAL
        self._open[fd] = (content, start + offset)
        self.write(at, _U64.pack(start + offset))
        return _OK

    def _fd_tell(self, fd: int, at: int) -> int:
        return self._fd_seek(fd, 0, 1, at)

    def _fd_write(self, fd: int, vectors: int, count: int, at: int) -> int:
        if fd not in self.streams and fd != ANSWER:
            return _BADF
        kept = self.answer if fd == ANSWER else self.streams[fd]
        written = 0
        for pointer, size in self._vectors(vectors, count):
            self._written += size
            if self._written > OUTPUT_BYTES_MAX:
                raise Ended(OUTPUT_EXCEEDED)
            kept += self.read(pointer, size)
            written += size
        if fd == ANSWER:
            del kept[ANSWER_BYTES_MAX:]
        else:
            del kept[:-KEPT_BYTES]
        self.write(at, _U32.pack(written))
        return _OK


OUTPUT_EXCEEDED = f"The function wrote more than {OUTPUT_BYTES_MAX // 1024} KiB."


def _wait_ns(clock: int, timeout: int, is_absolute: int) -> int:
    if not is_absolute:
        return int(timeout)
    return int(timeout) - (time.time_ns() if clock == 0 else time.monotonic_ns())


def signatures() -> list[str]:
    """Names of all functions that an interpreter may import."""
    return [line.partition(" ")[0] for line in _SIGNATURES.replace("\n", "|").strip("|").split("|")]
