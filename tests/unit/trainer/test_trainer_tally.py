"""Sums over labels, task by task, whatever batches and processes they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import flatten
from feinschliff.trainer.state import MetricsRow, TrainState, metrics_csv
from feinschliff.trainer.stopping import Standing
from feinschliff.trainer.tally import Tally, Tasks, Totals
from feinschliff.trainer.terms import LossTerms


def rows(*answers: int) -> list[Encoded]:
    """Rows with so many labels each."""
    return [Encoded([1] * (one + 2), [False, False] + [True] * one) for one in answers]


def tasks(*names: str) -> Tasks:
    made = Tasks()
    for name in names:
        made.append(name, 2)
    return made


def terms(*losses: float, hits: bool = True) -> LossTerms:
    losses_N = torch.tensor(losses, requires_grad=True)
    return LossTerms(losses_N, losses_N.detach() < 1 if hits else None)


def test_one_task_has_no_numbers_of_its_own() -> None:
    tally = Tally(tasks("a", "a"))
    tally.add(terms(0.5, 1.5, 1.0), flatten(rows(1, 2)), [0, 3])

    totals = tally.totals(tally.numbers())
    assert totals.values() == {"loss": 1.0, "accuracy": pytest.approx(1 / 3)}


def test_labels_count_for_the_task_of_their_row() -> None:
    tally = Tally(tasks("a", "b", "a"))
    tally.add(terms(0.5, 2.0, 4.0), flatten(rows(1, 2)), [5, 2])
    tally.add(terms(0.1), flatten(rows(1)), [0])

    values = tally.totals(tally.numbers()).values()
    assert values["loss"] == pytest.approx(6.6 / 4)
    assert values["loss/a"] == pytest.approx(0.3)
    assert values["loss/b"] == pytest.approx(3.0)
    assert (values["accuracy/a"], values["accuracy/b"]) == (1.0, 0.0)


def test_a_task_without_labels_and_losses_that_nothing_hits_tell_nothing() -> None:
    tally = Tally(tasks("a", "b"))
    tally.add(terms(2.0, hits=False), flatten(rows(1)), [0])

    totals = tally.totals(tally.numbers())
    assert totals.values() == {"loss": 2.0, "loss/a": 2.0}
    assert totals.accuracy is None


def test_processes_add_up_and_one_may_have_seen_no_row() -> None:
    both, first, second, idle = (Tally(tasks("a", "b")) for _ in range(4))
    for tally in (both, first):
        tally.add(terms(0.5, 2.0), flatten(rows(1, 1)), [0, 2], np.array([1.0, 0.0]))
    for tally in (both, second):
        tally.add(terms(3.0), flatten(rows(1)), [3], np.array([2.0, 5.0]))

    numbers = [one.numbers(observed=2) for one in (first, second, idle)]
    totals = both.totals([sum(column) for column in zip(*numbers, strict=True)])
    assert totals.values() == both.totals(both.numbers(observed=2)).values()
    assert totals.observed.tolist() == [3.0, 5.0]


def test_what_was_counted_is_kept_for_the_best_and_for_the_last_weights() -> None:
    state = TrainState()
    for step, (loss, best) in enumerate([(1.0, 1), (2.0, 1), (3.0, 1), (0.5, 4)], start=1):
        state = state.with_step(10, MetricsRow(step=step, train_loss=1.0, train_accuracy=None))
        totals = Totals(["a"], np.array([[loss, 0.0, 1.0, 0.0]]), np.array([0.0, float(step), 0.0]))
        standing = Standing(best_step=best)
        state = state.with_validation(totals, {"mae": loss}, standing, stopped_early=False)
        assert [one.step for one in state.observed] == sorted({best, step})

    counted = TrainState.model_validate_json(state.model_dump_json()).observed_at(4, 3)
    assert counted is not None
    assert counted.tolist() == [0.0, 4.0, 0.0]
    assert state.observed_at(1, 3) is None
    assert state.history[-1].valid_more == {"mae": 0.5}
    assert metrics_csv(state.history).splitlines()[-1] == b"4,1.0,,0.5,"
