"""Every row is seen as often as its source's weight says, in an order that only the seed decides."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.formats.optimisation import Optimisation
from feinschliff.kit.errors import Invalid
from feinschliff.trainer.order import ORDERS, Course, Source, fixed_choice, refuse_nothing_to_learn


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


@pytest.mark.parametrize(
    ("every_steps", "every_epochs", "due"),
    [
        (0, 1.0, [5, 10, 15]),
        (0, 2.0, [10]),
        (0, 0.5, [3, 5, 8, 10, 13, 15]),
        (0, 0.2, list(range(1, 16))),
        (0, 0.01, list(range(1, 16))),
        (0, 4.0, []),
        (4, 0.2, [4, 8, 12]),
        (1, 1.0, list(range(1, 16))),
    ],
)
def test_what_comes_every_so_often_comes_at_the_first_step_that_is_not_too_early(
    every_steps: int, every_epochs: float, due: list[int]
) -> None:
    one = course(Source(0, 18, 1.0), batch_size=4, epochs=3)

    found = [step for step in range(16) if one.is_due(step, every_steps=every_steps, every_epochs=every_epochs)]
    assert found == due


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    batch_size=st.integers(1, 16),
    order=st.sampled_from(sorted(ORDERS)),
    epoch=st.integers(0, 2),
)
def test_every_order_takes_the_same_rows(lengths: list[int], batch_size: int, order: str, epoch: int) -> None:
    settings = Optimisation.model_validate({"batch_size": batch_size, "order": order})
    one = Course.of([Source(0, len(lengths), 1.0)], settings, seed=1, lengths=lengths)

    assert sorted(seen(one, epoch=epoch)) == list(range(len(lengths)))


def ordered(order: str, lengths: list[int], *sources: Source, seed: int = 0) -> Course:
    settings = Optimisation.model_validate({"batch_size": 4, "order": order, "epochs": 3})
    return Course.of(sources or [Source(0, len(lengths), 1.0)], settings, seed=seed, lengths=lengths)


def test_rows_of_similar_length_share_a_step_and_the_steps_are_shuffled() -> None:
    lengths = [row % 10 + 1 for row in range(42)]
    one = ordered("by_length", lengths)

    steps = [[lengths[row] for row in one.rows_of(step)] for step in range(one.steps_per_epoch)]
    assert len(steps[-1]) == 2
    joined = [length for step in sorted(steps[:-1]) for length in step]
    assert joined == sorted(joined)
    assert steps[:-1] != sorted(steps[:-1])
    assert seen(one) != seen(one, epoch=1)
    assert seen(one) == seen(ordered("by_length", lengths)) != seen(ordered("by_length", lengths, seed=1))


def test_two_courses_that_differ_only_in_lengths_have_orders_of_their_own() -> None:
    first, second = ordered("by_length", list(range(1, 17))), ordered("by_length", list(range(16, 0, -1)))

    assert [sorted(first.rows_of(step)) for step in range(4)] != [sorted(second.rows_of(step)) for step in range(4)]


def test_as_given_follows_the_data_pass_by_pass() -> None:
    one = ordered("as_given", [1] * 6, Source(0, 4, 1.5), Source(4, 2, 1.0))

    assert seen(one)[:4] == [0, 1, 2, 3]
    assert seen(one)[4:6] == sorted(seen(one)[4:6])
    assert seen(one)[6:] == [4, 5]


def test_a_choice_is_fixed_by_its_seed() -> None:
    chosen = fixed_choice(100, 10, seed=3)

    assert list(chosen) == sorted(set(chosen)) == list(fixed_choice(100, 10, seed=3))
    assert len(chosen) == 10
    assert list(chosen) != list(fixed_choice(100, 10, seed=4))


@pytest.mark.parametrize("rows_max", [0, 7, 8])
def test_a_choice_of_no_limit_or_a_high_one_is_everything(rows_max: int) -> None:
    assert list(fixed_choice(7, rows_max, seed=0)) == list(range(7))


@pytest.mark.parametrize("sources", [[], [Source(0, 0, 1.0)], [Source(0, 4, 0.1), Source(4, 0, 9.0)]])
def test_nothing_to_learn_from_is_refused(sources: list[Source]) -> None:
    with pytest.raises(Invalid) as refusal:
        refuse_nothing_to_learn(sources)

    assert refusal.value.reason == "NOTHING_TO_LEARN"


def test_a_source_without_rows_leaves_the_others_to_learn_from() -> None:
    sources = [Source(0, 0, 2.0), Source(0, 5, 1.0)]
    refuse_nothing_to_learn(sources)

    assert sorted(seen(course(*sources))) == [0, 1, 2, 3, 4]
