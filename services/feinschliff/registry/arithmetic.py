"""How the low-rank matrices of several adapters become those of one: pure numbers, without files.

An adapter changes a layer's weight by scale * B @ A, with A of (rank, inputs) and B of (outputs, rank).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


class Factors(NamedTuple):
    """One adapter's part in one layer: `a` (rank, inputs), `b` (outputs, rank)."""

    a: Matrix
    b: Matrix
    scale: float


class Pair(NamedTuple):
    """The matrices of the combined adapter, to be used with scale 1."""

    a: Matrix
    b: Matrix


@dataclass(frozen=True)
class Method:
    """How adapters are combined.

    Args:
        kind: `linear`, `concatenate`, `ties` or `dare`.
        density: share of the numbers that `ties` and `dare` keep, above 0 to 1.
        seed: of what `dare` drops; equal seeds drop the same.
    """

    kind: str
    density: float = 1.0
    seed: int = 0

    @property
    def keeps_rank(self) -> bool:
        """Whether all adapters must have one rank, which the combined one has too."""
        return self.kind != "concatenate"


def combine(layer: str, parts: Sequence[Factors], weights: Sequence[float], method: Method) -> Pair:
    """One layer of the combined adapter.

    `concatenate` is exact: its change of the weight is sum_i w_i * scale_i * B_i @ A_i. The others work on A and on B
    by themselves, as PEFT does, so that the rank stays: each factor is taken times sqrt(|w_i * scale_i|), A with the
    sign, and then summed (`linear`), summed after random numbers were dropped and the others divided by the density
    (`dare`; Yu et al. 2024, arXiv:2311.03099), or, after all but the largest were set to 0, averaged over those
    adapters that agree with the sign of the sum (`ties`; Yadav et al. 2023, arXiv:2306.01708).

    Args:
        layer: its name; what `dare` drops follows from it and the seed.
        parts: of the adapters that change this layer, each with its weight.
    """
    if not method.keeps_rank:
        scaled = [np.float32(weight * part.scale) * part.a for part, weight in zip(parts, weights, strict=True)]
        return Pair(np.concatenate(scaled, axis=0), np.concatenate([part.b for part in parts], axis=1))
    shares = [weight * part.scale for part, weight in zip(parts, weights, strict=True)]
    roots = [math.sqrt(abs(share)) for share in shares]
    signed = [math.copysign(root, share) for root, share in zip(roots, shares, strict=True)]
    merge = MERGES[method.kind]
    return Pair(
        merge([part.a for part in parts], signed, method, f"{layer}/a"),
        merge([part.b for part in parts], roots, method, f"{layer}/b"),
    )


def _linear(tensors: Sequence[Matrix], weights: Sequence[float], method: Method, name: str) -> Matrix:
    total: Matrix = _weighted(np.stack(tensors), weights).sum(axis=0, dtype=np.float32)
    return total


def _dare(tensors: Sequence[Matrix], weights: Sequence[float], method: Method, name: str) -> Matrix:
    kept = [thinned(tensor, method, f"{name}/{place}") for place, tensor in enumerate(tensors)]
    return _linear(kept, weights, method, name)


def _ties(tensors: Sequence[Matrix], weights: Sequence[float], method: Method, name: str) -> Matrix:
    trimmed = np.stack([largest(tensor, method.density) for tensor in tensors])
    elected = np.where(trimmed.sum(axis=0) >= 0, np.float32(1), np.float32(-1))
    agrees = np.sign(trimmed) == elected
    total = (_weighted(trimmed, weights) * agrees).sum(axis=0, dtype=np.float32)
    mean: Matrix = (total / np.maximum(agrees.sum(axis=0), 1)).astype(np.float32)
    return mean


MERGES: Mapping[str, Callable[[Sequence[Matrix], Sequence[float], Method, str], Matrix]] = {
    "linear": _linear,
    "ties": _ties,
    "dare": _dare,
}
KINDS = ("linear", "concatenate", "ties", "dare")


def largest(tensor: Matrix, density: float) -> Matrix:
    """The share `density` of the numbers, those largest in size, the others 0; of equal ones the first stay."""
    if density >= 1:
        return tensor
    kept = np.zeros(tensor.size, dtype=np.float32)
    order = np.argsort(-np.abs(tensor.reshape(-1)), kind="stable")[: int(density * tensor.size)]
    kept[order] = tensor.reshape(-1)[order]
    return kept.reshape(tensor.shape)


def thinned(tensor: Matrix, method: Method, name: str) -> Matrix:
    """Each number stays with probability `density`, divided by it, or becomes 0: the expected value stays.

    What is drawn follows from the seed and `name` alone, so that the same wish gives the same bytes.
    """
    if method.density >= 1:
        return tensor
    draws = np.random.Generator(np.random.Philox(key=_key(method.seed, name))).random(tensor.shape, dtype=np.float32)
    return np.where(draws < method.density, tensor / np.float32(method.density), np.float32(0)).astype(np.float32)


def _weighted(tensors: Matrix, weights: Sequence[float]) -> Matrix:
    """Args: tensors: (adapters, ...)."""
    factors = np.asarray(weights, dtype=np.float32).reshape(-1, *(1,) * (tensors.ndim - 1))
    return tensors * factors


def _key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "big")
