"""A writer holds little, says what went wrong, and never leaves its thread behind."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable

import pytest

from feinschliff.artifacts.store import Stored
from feinschliff.artifacts.writer import PIECE_BYTES, pushed


def kept_in(target: list[bytes]) -> Callable[[Iterable[bytes]], Stored]:
    def put(chunks: Iterable[bytes]) -> Stored:
        target.extend(chunks)
        whole = b"".join(target)
        return Stored("key", hashlib.sha256(whole).hexdigest(), len(whole))

    return put


def no_writer_threads() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "artifact-writer"]


def test_what_is_pushed_arrives_in_order_and_in_pieces() -> None:
    arrived: list[bytes] = []
    with pushed(kept_in(arrived)) as out:
        for number in range(300_000):
            out.write(b"%07d\n" % number)

    assert b"".join(arrived) == b"".join(b"%07d\n" % number for number in range(300_000))
    assert {len(piece) for piece in arrived[:-1]} == {PIECE_BYTES}
    assert out.stored.size_bytes == out.bytes_written == 2_400_000
    assert no_writer_threads()


def test_one_large_write_is_cut_up() -> None:
    arrived: list[bytes] = []
    with pushed(kept_in(arrived)) as out:
        out.write(memoryview(bytes(10 * PIECE_BYTES + 5)))

    assert [len(piece) for piece in arrived] == [PIECE_BYTES] * 10 + [5]


def test_a_slow_store_holds_the_producer_back() -> None:
    may_go_on, pushed_pieces = threading.Event(), threading.Semaphore(0)

    def slow(chunks: Iterable[bytes]) -> Stored:
        may_go_on.wait(10)
        return Stored("key", "", sum(len(chunk) for chunk in chunks))

    def produce() -> None:
        with pushed(slow) as out:
            for _ in range(20):
                out.write(bytes(PIECE_BYTES))
                pushed_pieces.release()

    producer = threading.Thread(target=produce)
    producer.start()
    taken = 0
    while pushed_pieces.acquire(timeout=0.5):
        taken += 1
    may_go_on.set()
    producer.join(10)

    assert taken < 8
    assert not producer.is_alive()


@pytest.mark.parametrize("after_pieces", [0, 2])
def test_a_store_that_fails_stops_the_producer(after_pieces: int) -> None:
    def failing(chunks: Iterable[bytes]) -> Stored:
        for number, _ in enumerate(chunks):
            if number >= after_pieces:
                break
        raise OSError("no space left")

    def produce() -> None:
        with pushed(failing) as out:
            for _ in range(1_000):
                out.write(bytes(PIECE_BYTES))
        raise AssertionError("the producer was never told")

    with pytest.raises(OSError, match="no space left"):
        produce()
    assert no_writer_threads()


def test_a_store_that_fails_at_the_very_end_is_heard() -> None:
    def failing(chunks: Iterable[bytes]) -> Stored:
        for _ in chunks:
            pass
        raise OSError("commit failed")

    def produce() -> None:
        with pushed(failing) as out:
            out.write(b"x")

    with pytest.raises(OSError, match="commit failed"):
        produce()


def test_the_producers_own_failure_is_what_it_sees_and_the_store_drops_all() -> None:
    dropped = threading.Event()

    def watching(chunks: Iterable[bytes]) -> Stored:
        try:
            for _ in chunks:
                pass
        except BaseException:
            dropped.set()
            raise
        raise AssertionError("the stream ended as if it were whole")

    def produce() -> None:
        with pushed(watching) as out:
            out.write(bytes(3 * PIECE_BYTES))
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        produce()
    assert dropped.is_set()
    assert no_writer_threads()
