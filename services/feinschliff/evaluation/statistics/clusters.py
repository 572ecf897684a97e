"""Values that are no news of each other: several answers to a row, and rows that are there several times; all pure.

Intervals and tests take clusters, not values, as what was drawn (Miller 2024, "Adding Error Bars to Evals", sections
2.2 and 3). The mean stays the one over all values.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from feinschliff.evaluation.statistics.intervals import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    Floats,
    Interval,
    Method,
    all_alike,
    bca_bounds,
    blocks,
    widened,
)


class Clusters(NamedTuple):
    """What each cluster's values add up to, and how many there are; both (G,), in the order of first appearance."""

    sums_G: Floats
    sizes_G: Floats

    @property
    def number(self) -> int:
        return len(self.sizes_G)

    @property
    def mean(self) -> float:
        """Of all values, whatever cluster they are in."""
        return float(self.sums_G.sum() / self.sizes_G.sum())


def gather(values: Sequence[float], keys: Sequence[Hashable]) -> Clusters:
    """The clusters of values by their keys, one for each value."""
    places: dict[Hashable, int] = {}
    index_N = np.asarray([places.setdefault(key, len(places)) for key in keys], dtype=np.intp)
    sums_G, sizes_G = np.zeros(len(places)), np.zeros(len(places))
    np.add.at(sums_G, index_N, np.asarray(values, dtype=np.float64))
    np.add.at(sizes_G, index_N, 1.0)
    return Clusters(sums_G, sizes_G)


def standard_error(clusters: Clusters) -> float:
    """Of the mean, robust to all that goes on inside clusters (Miller 2024, eq. 4), times G / (G - 1); G >= 2."""
    residuals_G = clusters.sums_G - clusters.mean * clusters.sizes_G
    correction = clusters.number / (clusters.number - 1)
    return math.sqrt(correction * float((residuals_G**2).sum())) / float(clusters.sizes_G.sum())


def clustered_interval(
    clusters: Clusters,
    *,
    within: Interval,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Interval, Method]:
    """Interval of the mean of all values: BCa bootstrap that draws whole clusters, widened for few of them; G >= 2.

    Where all clusters have one mean, the bound of `intervals.all_alike`, for clusters in place of values.
    """
    means_G = clusters.sums_G / clusters.sizes_G
    if np.ptp(means_G) == 0:
        return all_alike(float(means_G[0]), clusters.number, within=within, confidence=confidence), Method.ALL_ALIKE
    random = np.random.default_rng(seed)
    drawn = []
    for rows in blocks(resamples, clusters.number):
        picked_RG = random.integers(0, clusters.number, size=(rows, clusters.number))
        drawn.append(clusters.sums_G[picked_RG].sum(axis=1) / clusters.sizes_G[picked_RG].sum(axis=1))
    left_out_G = (clusters.sums_G.sum() - clusters.sums_G) / (clusters.sizes_G.sum() - clusters.sizes_G)
    interval = bca_bounds(
        np.concatenate(drawn), clusters.mean, left_out_G, confidence=widened(confidence, clusters.number)
    )
    return interval, Method.BOOTSTRAP_BCA
