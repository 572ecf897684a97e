"""Every row is seen as often as its source's weight says, in an order that only the seed decides."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.formats.recipe import Optimisation
from feinschliff.trainer.order import Course, Source


def course(*sources: Source, epochs: float = 1, batch_size: int = 4, seed: int = 0, steps_max: int = 0) -> Course:
    settings = Optimisation(epochs=epochs, batch_size=batch_size, steps_max=steps_max)
    return Course.of(sources, settings, seed=seed)


def seen(one: Course, *, epoch: int = 0) -> list[int]:
    first = epoch * one.steps_per_epoch
    return [row for step in range(first, first + one.steps_per_epoch) for row in one.rows_of(step)]


@given(rows=st.integers(1, 60), batch_size=st.integers(1, 16), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 3))
def test_an_epoch_holds_every_row_once(rows: int, batch_size: int, seed: int, epoch: int) -> None:
    one = course(Source(0, rows, 1.0), batch_size=batch_size, seed=seed)

    assert sorted(seen(one, epoch=epoch)) == list(range(rows))


def test_epochs_differ_and_repeat_with_their_seed() -> None:
    one, again, other = (course(Source(0, 40, 1.0), seed=seed) for seed in (3, 3, 4))

    assert seen(one) != seen(one, epoch=1)
    assert seen(one) == seen(again) != seen(other)


def test_a_weight_repeats_rows_and_draws_the_fraction_anew_in_each_epoch() -> None:
    one = course(Source(0, 10, 2.5), Source(10, 8, 1.0))

    counts = [Counter(seen(one, epoch=epoch)) for epoch in (0, 1)]

    for count in counts:
        assert sorted(count[row] for row in range(10)) == [2] * 5 + [3] * 5
        assert all(count[row] == 1 for row in range(10, 18))
    assert counts[0] != counts[1]


@pytest.mark.parametrize(
    ("rows", "epochs", "batch_size", "steps_max", "steps"),
    [
        (84, 4, 8, 0, 44),
        (84, 0.5, 8, 0, 6),
        (84, 4, 8, 10, 10),
        (3, 1, 8, 0, 1),
        (16, 1.01, 8, 0, 3),
    ],
)
def test_steps_follow_from_rows_epochs_and_batch_size(
    rows: int, epochs: float, batch_size: int, steps_max: int, steps: int
) -> None:
    one = course(Source(0, rows, 1.0), epochs=epochs, batch_size=batch_size, steps_max=steps_max)

    assert one.steps_total == steps


def test_epochs_are_counted_by_rows() -> None:
    one = course(Source(0, 10, 1.0), batch_size=4, epochs=2)

    assert [one.epochs_after(steps) for steps in range(7)] == pytest.approx([0, 0.4, 0.8, 1, 1.4, 1.8, 2])
    assert [steps for steps in range(7) if one.ends_epoch(steps)] == [3, 6]
