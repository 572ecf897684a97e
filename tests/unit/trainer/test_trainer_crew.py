"""Rows are shared out evenly and completely; a crew of one shares with nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.formats.report import ExitCode
from feinschliff.kit.errors import Invalid
from feinschliff.trainer.crew import Alone, balanced
from feinschliff.trainer.launch import agreed, note_exit
from feinschliff.trainer.peers import PeerLost, is_loss_of_a_peer
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.trainer.stop import Stop, Stopped, Why


@given(st.lists(st.integers(1, 2000), max_size=60), st.integers(1, 16))
def test_every_row_is_in_one_part_and_no_part_is_much_longer(lengths: list[int], parts: int) -> None:
    rows = [10 + place for place in range(len(lengths))]

    divided = balanced(rows, lambda row: lengths[row - 10], parts)

    assert len(divided) == parts
    assert sorted(row for part in divided for row in part) == rows
    assert all(part == sorted(part) for part in divided), "rows keep their order"
    loads = [sum(lengths[row - 10] for row in part) for part in divided]
    assert max(loads) - min(loads) <= max(lengths, default=0)


def test_a_row_that_is_drawn_twice_counts_twice() -> None:
    divided = balanced([4, 4, 5], {4: 6, 5: 12}.__getitem__, 2)

    assert divided == [[5], [4, 4]]


def test_who_is_alone_has_all_of_it_and_stops_at_once() -> None:
    crew, stop = Alone(), Stop()
    assert crew.part_of([3, 1, 2], lambda row: 1) == [3, 1, 2]
    assert crew.sum([1, 2.5]) == [1, 2.5]

    work = crew.share(["a", "b"], stop)
    assert next(work) == "a"
    stop.ask(Why.PAUSED)
    with pytest.raises(Stopped):
        next(work)


@pytest.mark.parametrize(
    ("codes", "together"),
    [
        ([0, 0], 0),
        ([75, 0], 75),
        ([75, 65], 65),
        ([1, 75], 1),
        ([65, 1], 65),
    ],
)
def test_a_machine_ends_as_the_process_that_has_most_to_say(tmp_path: Path, codes: list[int], together: int) -> None:
    for place, code in enumerate(codes):
        note_exit(tmp_path, place, ExitCode(code) if code != 1 else code)

    assert agreed(tmp_path, len(codes)) == together


@pytest.mark.parametrize(
    ("threads", "recorded", "processes", "each"),
    [(8, 0, 2, 4), (1, 0, 2, 1), (8, 3, 2, 4), (0, 3, 2, 3)],
)
def test_processes_of_one_machine_share_its_threads(threads: int, recorded: int, processes: int, each: int) -> None:
    assert TrainerSettings(trainer_threads=threads).threads(recorded, processes=processes) == each


@pytest.mark.parametrize(
    ("error", "is_loss"),
    [
        (PeerLost("gone"), True),
        (dist.DistNetworkError("no route"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("Connection reset by peer"), False),
        (Invalid("LOSS_NOT_FINITE", "gloo is no reason"), False),
    ],
)
def test_the_loss_of_a_peer_is_told_from_errors_of_our_own(error: Exception, is_loss: bool) -> None:
    assert is_loss_of_a_peer(error) is is_loss
