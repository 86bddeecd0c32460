"""Bootstrap resamples of prompts and seeds, written as matrices of weights.

A mean over prompts is linear, so one resample is a row of weights and thousands of them are one
matrix product. Prompts are drawn within their benchmark, and benchmarks count alike, so the same
weights serve one benchmark and the uniform mean of several. `_R` stands for resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MEAN = "mean"
Array = npt.NDArray[np.float64]
Labels = Sequence[str] | npt.NDArray[Any]
# Far below any difference that samples can make, far above what sums of floats are off by.
_ROUNDING = 1e-12


class Interval(NamedTuple):
    """The bounds of an interval for each k."""

    low_K: Array
    high_K: Array


def benchmark_views(benchmarks_P: Labels) -> list[tuple[str, Any]]:
    """Return `(name, bool mask over prompts)` of each benchmark in order, then of "mean".

    "mean" holds every prompt and is there only for two benchmarks or more.
    """
    names_P = np.asarray(benchmarks_P, str)
    views: list[tuple[str, Any]] = [
        (name, names_P == name) for name in dict.fromkeys(names_P.tolist())
    ]
    return [*views, (MEAN, np.ones(len(names_P), bool))] if len(views) > 1 else views


def mean_weights(benchmarks_P: Labels) -> Array:
    """Return weights_P of the uniform mean over benchmarks of their mean over prompts."""
    _, stratum_P, sizes = np.unique(
        np.asarray(benchmarks_P, dtype=str), return_inverse=True, return_counts=True
    )
    return np.asarray(1.0 / (len(sizes) * sizes[stratum_P]), dtype=np.float64)


def prompt_weights(benchmarks_P: Labels, resamples: int, rng: np.random.Generator) -> Array:
    """Return weights_RP: prompts drawn with replacement within each benchmark.

    Args:
        benchmarks_P: The benchmark of each prompt.
        resamples: Number of rows R.
        rng: Source of randomness.

    Returns:
        Non-negative weights whose rows sum to 1.
    """
    names_P = np.asarray(benchmarks_P, dtype=str)
    weights_RP = np.tile(mean_weights(names_P), (resamples, 1))
    for name in np.unique(names_P):
        columns = np.flatnonzero(names_P == name)
        weights_RP[:, columns] *= _draw_counts(len(columns), resamples, rng)
    return weights_RP


def seed_weights(n_seeds: int, resamples: int, rng: np.random.Generator) -> Array:
    """Return weights_RS: seeds drawn with replacement, their spread corrected for few seeds.

    A bootstrap over S values has (S - 1) / S of the variance of their mean: half of it for two
    seeds. Deviations from the mean are therefore scaled by sqrt(S / (S - 1)); rows still sum
    to 1, and single weights may be negative. One seed always has weight 1.
    """
    if n_seeds == 1:
        return np.ones((resamples, 1))
    spread = math.sqrt(n_seeds / (n_seeds - 1))
    counts_RS = _draw_counts(n_seeds, resamples, rng)
    return np.asarray((1 + spread * (counts_RS - 1)) / n_seeds, dtype=np.float64)


def resampled_means(passk_SPK: Array, weights_RP: Array, weights_RS: Array) -> Array:
    """Return means_RK: the weighted mean over prompts and seeds in each resample."""
    seeds, prompts, ks = passk_SPK.shape
    flat = passk_SPK.transpose(1, 0, 2).reshape(prompts, seeds * ks)
    means_RSK = (weights_RP @ flat).reshape(-1, seeds, ks)
    return np.asarray(np.einsum("rs,rsk->rk", weights_RS, means_RSK), dtype=np.float64)


def percentile_interval(values_RK: Array, level: float) -> Interval:
    """Return the central interval that holds the share `level` of the resamples, for each k."""
    tail = (1 - level) / 2
    low_K, high_K = np.quantile(values_RK, (tail, 1 - tail), axis=0)
    return Interval(low_K, high_K)


def without_rounding(differences: Array) -> Array:
    """Return differences of means, exactly 0 where only the rounding of sums parts them.

    Equal means summed in another order differ by 1e-16 of either sign, which a test that counts
    signs would take for evidence.
    """
    return np.asarray(np.where(np.abs(differences) < _ROUNDING, 0.0, differences), np.float64)


def _draw_counts(size: int, resamples: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    drawn = rng.integers(0, size, (resamples, size))
    drawn += np.arange(resamples)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size)
