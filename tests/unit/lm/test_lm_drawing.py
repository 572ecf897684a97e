"""What a number in [0, 1) draws from a row of logits, held against a plain float64 account of the same rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.lm.drawing import Filters, Floats, draw
from feinschliff.lm.penalties import Penalties, Weights


def plain(logits_V: Floats, temperature: float, filters: Filters) -> dict[int, float]:
    """Probability of every token that can be drawn: sorted, cut and normalised as the rules read."""
    scaled = logits_V.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    left = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    if filters.top_k:
        left = left[: filters.top_k]
    whole, held, kept = sum(weights[token] for token in left), 0.0, []
    for token in left:
        if kept and held >= filters.top_p * whole and filters.top_p < 1:
            break
        kept.append(token)
        held += weights[token]
    kept = [token for token in kept if weights[token] >= filters.min_p * weights[kept[0]]]
    total = sum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept if weights[token] > 0}


def drawn(logits_V: Floats, temperature: float, filters: Filters, points: int = 4000) -> dict[int, float]:
    """Share of an even grid of numbers that leads to each token."""
    found = [
        draw(logits_V, temperature=temperature, filters=filters, uniform=(point + 0.5) / points)
        for point in range(points)
    ]
    return {token: found.count(token) / points for token in sorted(set(found))}


FILTERS = [
    Filters(),
    Filters(top_k=1),
    Filters(top_k=7),
    Filters(top_k=10_000),
    Filters(top_p=0.37),
    Filters(top_p=0.999),
    Filters(min_p=0.08),
    Filters(min_p=1e-9),
    Filters(top_k=20, top_p=0.613, min_p=0.021),
    Filters(top_k=600, top_p=0.97),
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize(("size", "spread", "temperature"), [(9, 2.0, 0.7), (700, 4.0, 1.0), (700, 0.3, 1.7)])
def test_draws_share_the_numbers_as_the_rules_say(
    filters: Filters, size: int, spread: float, temperature: float
) -> None:
    logits_V = (np.random.default_rng(size).standard_normal(size) * spread).astype(np.float32)
    expected, found = plain(logits_V, temperature, filters), drawn(logits_V, temperature, filters)
    assert set(found) <= set(expected)
    assert sum(abs(found.get(token, 0.0) - share) for token, share in expected.items()) < len(expected) / 4000 + 1e-3


ROWS = st.lists(st.one_of(st.floats(-30, 30, width=32), st.just(float("-inf"))), min_size=1, max_size=40).filter(
    lambda row: max(row) > float("-inf")
)


@settings(max_examples=300, deadline=None)
@given(ROWS, st.integers(0, 50), st.floats(1e-3, 1), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_whatever_the_filters_what_is_drawn_can_be_drawn(
    row: list[float], top_k: int, top_p: float, min_p: float, uniform: float
) -> None:
    logits_V = np.array(row, np.float32)
    filters = Filters(top_k=top_k, top_p=top_p, min_p=min_p)
    token = draw(logits_V, temperature=1.0, filters=filters, uniform=uniform)
    assert logits_V[token] > -np.inf
    better = sum(weight > logits_V[token] for weight in logits_V)
    assert top_k == 0 or better < top_k
    assert np.exp(logits_V[token] - logits_V.max()) >= min_p * (1 - 1e-5)


def test_equally_likely_tokens_come_in_the_order_of_their_ids() -> None:
    logits_V = np.zeros(2000, np.float32)
    found = {draw(logits_V, temperature=1.0, filters=Filters(top_k=3), uniform=u / 100) for u in range(100)}
    assert found == {0, 1, 2}


def test_the_last_number_below_one_draws_a_token_that_has_weight() -> None:
    logits_V = np.array([0.0] * 300 + [-np.inf] * 300, np.float32)
    assert draw(logits_V, temperature=1.0, filters=Filters(), uniform=np.nextafter(1.0, 0.0)) < 300


def penalised(weights: Weights, logits: list[float], prompt: list[int], said: list[int]) -> list[float]:
    penalties = Penalties(weights, prompt)
    for token in said:
        penalties.add(token)
    logits_V = np.array(logits, np.float32)
    penalties.apply(logits_V)
    return [float(value) for value in logits_V]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (Weights(presence=0.5), [2.0, 0.5, -2.5, 1.0]),
        (Weights(frequency=0.5), [2.0, 0.0, -2.5, 1.0]),
        (Weights(presence=-0.5, frequency=1.0), [2.0, -0.5, -2.5, 1.0]),
        (Weights(repetition=2.0), [1.0, 0.5, -4.0, 1.0]),  # the prompt counts too
        (Weights(repetition=0.5), [4.0, 2.0, -1.0, 1.0]),
        (Weights(bias={0: -100.0, 3: 1.5}), [-98.0, 1.0, -2.0, 2.5]),
        (Weights(repetition=2.0, frequency=1.0, bias={1: 1.0}), [1.0, -0.5, -5.0, 1.0]),
    ],
)
def test_penalties_follow_their_formulas(weights: Weights, expected: list[float]) -> None:
    assert penalised(weights, [2.0, 1.0, -2.0, 1.0], prompt=[0], said=[1, 2, 1]) == expected


def test_tokens_beyond_the_vocabulary_have_no_logits() -> None:
    assert penalised(Weights(repetition=2.0, bias={9: 5.0}), [2.0], prompt=[0, 7], said=[]) == [1.0]
