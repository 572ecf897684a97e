"""The spool keeps what it took: bounded, whole, in one owner's hands, and through the death of that owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from feinschliff.inference.segments import RECORD_BYTES_MAX, SUFFIX, Segment
from feinschliff.inference.spool import Dropped, Spool

BOUND = 1024 * 1024
WRITER = """
import sys
from pathlib import Path
from feinschliff.inference.spool import Spool
spool = Spool(Path(sys.argv[1]), bytes_max=1 << 24, changed=lambda: None)
for number in range(1_000_000):
    spool.append(b"%d " % number + b"x" * (number % 5000)).result()
    print(number, flush=True)
"""


@pytest.fixture
def spools(tmp_path: Path) -> Iterator[list[Spool]]:
    opened: list[Spool] = []
    yield opened
    for one in opened:
        one.close()


def spool_in(folder: Path, spools: list[Spool], bytes_max: int = BOUND) -> Spool:
    spools.append(Spool(folder, bytes_max=bytes_max, changed=lambda: None))
    return spools[-1]


def drained(spool: Spool) -> list[bytes]:
    """All that is in it, which is gone from it then."""
    found: list[bytes] = []
    while (segment := spool.take()) is not None:
        found += [record.payload for record in segment.records()]
        spool.remove(segment)
    return found


def put(spool: Spool, *payloads: bytes) -> None:
    for payload in payloads:
        spool.append(payload).result(10)


def test_what_is_put_in_comes_out_in_order_and_leaves_nothing_behind(tmp_path: Path, spools: list[Spool]) -> None:
    spool = spool_in(tmp_path, spools)
    put(spool, b"one", b"", b"\x00" * 1000)
    assert drained(spool) == [b"one", b"", b"\x00" * 1000]
    assert (spool.size_bytes, list(tmp_path.iterdir())) == (0, [])
    put(spool, b"again")
    assert drained(spool) == [b"again"]


def test_the_bound_is_held_and_what_comes_beyond_says_why(tmp_path: Path, spools: list[Spool]) -> None:
    spool = spool_in(tmp_path, spools)
    put(spool, *[b"x" * 100_000] * 10)
    with pytest.raises(Dropped) as full:
        spool.append(b"y" * 100_000)
    assert full.value.reason == "full"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == spool.size_bytes <= BOUND
    assert len(drained(spool)) == 10
    put(spool, b"y" * 100_000)
    with pytest.raises(Dropped) as large:
        spool.append(b"z" * (RECORD_BYTES_MAX + 1))
    assert large.value.reason == "too_large"


def test_a_segment_put_back_comes_after_the_others_without_what_was_done(tmp_path: Path, spools: list[Spool]) -> None:
    spool = spool_in(tmp_path, spools)
    put(spool, b"a", b"b")
    first = spool.take()
    assert first is not None
    first.done.add(next(first.records()).at)
    put(spool, b"c")
    second = spool.take()
    assert second is not None
    spool.put_back(first)
    spool.put_back(second)
    assert drained(spool) == [b"b", b"c"]


def test_what_comes_while_a_segment_is_put_back_again_and_again_is_not_held_up(
    tmp_path: Path, spools: list[Spool]
) -> None:
    spool = spool_in(tmp_path, spools)
    put(spool, b"stuck")
    stuck = spool.take()
    assert stuck is not None
    spool.put_back(stuck)
    put(spool, b"fresh")
    taken = [spool.take(), spool.take()]
    assert [record.payload for segment in taken if segment for record in segment.records()] == [b"stuck", b"fresh"]


def test_another_process_takes_what_a_closed_one_left_and_nothing_of_a_living_one(
    tmp_path: Path, spools: list[Spool]
) -> None:
    left = Spool(tmp_path, bytes_max=BOUND, changed=lambda: None)
    put(left, b"left")
    left.close()
    living, taker = spool_in(tmp_path, spools), spool_in(tmp_path, spools)
    put(living, b"living")
    assert drained(taker) == [b"left"]
    assert drained(living) == [b"living"]


def test_a_full_disk_drops_by_name_and_does_not_spoil_what_follows(
    tmp_path: Path, spools: list[Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_in(tmp_path, spools)
    put(spool, b"before")

    def half(self: Segment, frames: bytes) -> None:
        os.write(self.fd, frames[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Segment, "append", half)
        with pytest.raises(Dropped) as caught:
            spool.append(b"lost").result(10)
    assert caught.value.reason == "disk"
    put(spool, b"after")
    assert sorted(drained(spool)) == [b"after", b"before"]
    assert spool.size_bytes == 0


def test_half_a_record_at_the_end_is_left_out_and_counted(tmp_path: Path, spools: list[Spool]) -> None:
    left = Spool(tmp_path, bytes_max=BOUND, changed=lambda: None)
    put(left, b"whole", b"torn")
    left.close()
    (path,) = tmp_path.glob(f"*{SUFFIX}")
    os.truncate(path, path.stat().st_size - 1)
    segment = spool_in(tmp_path, spools).take()
    assert segment is not None
    assert [record.payload for record in segment.records()] == [b"whole"]
    assert segment.torn_bytes == path.stat().st_size - (16 + len(b"whole"))


def test_many_threads_lose_nothing(tmp_path: Path, spools: list[Spool]) -> None:
    spool, taken = spool_in(tmp_path, spools), []
    threads = [
        threading.Thread(target=lambda n=n: put(spool, *[b"%d-%d" % (n, k) for k in range(50)])) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += drained(spool)
    taken += drained(spool)
    assert sorted(taken) == sorted(b"%d-%d" % (n, k) for n in range(8) for k in range(50))


@pytest.mark.parametrize("after", [1, 40, 200])
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, spools: list[Spool], after: int) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = [int(writer.stdout.readline()) for _ in range(after)]
    writer.send_signal(signal.SIGKILL)
    said += [int(line) for line in writer.stdout.read().splitlines() if line.strip()]
    writer.stdout.close()
    writer.wait()
    found = [int(payload.split(b" ")[0]) for payload in drained(spool_in(tmp_path, spools, 1 << 24))]
    assert found == list(range(len(found)))
    assert len(said) <= len(found) <= len(said) + 1
