"""Unbiased pass@k and its two uncertainties: over prompts, and over samples.

    pass@k = 1 - C(n - c, k) / C(n, k),   c of n samples correct

"Evaluating Large Language Models Trained on Code", arXiv 2107.03374, equation 1; needs numpy only.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rsgrpo.evaluation.resampling import (
    Array,
    Interval,
    Labels,
    mean_weights,
    percentile_interval,
    prompt_weights,
)

Counts = Sequence[int] | npt.NDArray[np.integer]


def pass_at_k(correct_P: Counts, n_P: Counts, ks: Sequence[int]) -> Array:
    """Return passk_PK: the chance that k samples drawn from a prompt's n hold a correct one.

    Args:
        correct_P: Correct samples of each prompt.
        n_P: Samples drawn for each prompt; may differ between prompts.
        ks: The values of k, each at least 1.

    Returns:
        float64 of shape (prompts, len(ks)), NaN where a prompt has fewer than k samples.

    Raises:
        ValueError: Counts are not integers, of different shapes, negative, or above n; a k is not
            a positive integer.
    """
    c_P, n_P = checked_counts(correct_P, n_P)
    ks = checked_ks(ks)
    passk_PK = np.empty((len(c_P), len(ks)))
    for n in np.unique(n_P):
        rows = n_P == n
        passk_PK[rows] = passk_table(int(n), ks)[c_P[rows]]
    return passk_PK


def passk_table(n: int, ks: Sequence[int]) -> Array:
    """Return table_CK: pass@k for every number of correct samples c = 0..n.

    The ratio of binomials is the product of (1 - k/i) over i = n - c + 1 .. n, so one cumulative
    sum of logarithms serves every c with the relative error of a few float64 roundings.
    """
    sizes = np.arange(n, 0, -1)[:, None]
    ks_K = _capped(ks, n)
    with np.errstate(divide="ignore"):
        steps = np.log1p(-np.minimum(ks_K / sizes, 1.0))
    table_CK = np.zeros((n + 1, len(ks)))
    table_CK[1:] = -np.expm1(np.cumsum(steps, axis=0))
    table_CK[:, ks_K > n] = np.nan
    return table_CK


def mean_pass_at_k(passk_PK: Array, benchmarks_P: Labels | None = None) -> Array:
    """Return passk_K, the mean over prompts, or the uniform mean over benchmarks of it.

    NaN at every k for which a prompt has no value: leaving prompts out would bias the mean.
    """
    weights_P = mean_weights(_strata(benchmarks_P, len(passk_PK)))
    return np.asarray(weights_P @ passk_PK, dtype=np.float64)


def prompt_interval(
    passk_PK: Array,
    benchmarks_P: Labels | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the percentile bootstrap interval over prompts, a prompt being the cluster.

    It answers: what if other prompts of the same kind had been asked? The noise of the samples is
    within it.

    Args:
        passk_PK: pass@k of each prompt.
        benchmarks_P: The benchmark of each prompt; prompts are then drawn within their benchmark
            and the mean is uniform over benchmarks. None: one benchmark.
        resamples: Number of bootstrap draws.
        seed: Seed of the draws; the same seed gives the same interval.
        level: Coverage aimed at.

    Returns:
        low_K and high_K; NaN where the mean is NaN.
    """
    rng = np.random.default_rng(seed)
    weights_RP = prompt_weights(_strata(benchmarks_P, len(passk_PK)), resamples, rng)
    return percentile_interval(weights_RP @ passk_PK, level)


def sampling_interval(
    correct_P: Counts,
    n_P: Counts,
    ks: Sequence[int],
    benchmarks_P: Labels | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the interval over samples with the prompts fixed, by a parametric bootstrap.

    It answers: what if the same prompts were sampled again? Draws are c* ~ Binomial(n, c/n). Their
    mean pass@k is 1 - (1 - c/n)^k, below the unbiased estimate, so the interval is moved by that
    known bias. For k above n/4 it is not to be trusted.

    Args:
        correct_P: Correct samples of each prompt.
        n_P: Samples of each prompt.
        ks: The values of k.
        benchmarks_P: The benchmark of each prompt, for the uniform mean over benchmarks.
        resamples: Number of bootstrap draws.
        seed: Seed of the draws.
        level: Coverage aimed at.

    Returns:
        low_K and high_K within [0, 1]; NaN where a prompt has fewer than k samples.

    Raises:
        ValueError: As for `pass_at_k`.
    """
    c_P, n_P = checked_counts(correct_P, n_P)
    ks = checked_ks(ks)
    weights_P = mean_weights(_strata(benchmarks_P, len(c_P)))
    rng = np.random.default_rng(seed)
    draws_RK = np.zeros((resamples, len(ks)))
    for n in np.unique(n_P):
        rows = n_P == n
        mass_RC = _redrawn_mass(c_P[rows], int(n), weights_P[rows], resamples, rng)
        draws_RK += mass_RC @ passk_table(int(n), ks)
    bias_K = weights_P @ (_with_replacement(c_P, n_P, ks) - pass_at_k(c_P, n_P, ks))
    low_K, high_K = percentile_interval(draws_RK, level)
    return Interval(np.clip(low_K - bias_K, 0, 1), np.clip(high_K - bias_K, 0, 1))


def checked_counts(
    correct_P: Counts, n_P: Counts
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return both as int64 arrays, or raise ValueError naming what does not fit."""
    c_P, sizes_P = _integers("correct", correct_P), _integers("n", n_P)
    if c_P.shape != sizes_P.shape:
        raise ValueError(f"correct has shape {c_P.shape} and n {sizes_P.shape}: they must agree")
    wrong = np.flatnonzero((c_P < 0) | (c_P > sizes_P))
    if len(wrong):
        at = wrong[0]
        raise ValueError(
            f"prompt {at} has {c_P[at]} correct of {sizes_P[at]} samples: expected 0 <= c <= n"
        )
    return c_P, sizes_P


def checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """Return the values of k as ints, or raise ValueError naming the first that is none."""
    for k in ks:
        if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
            raise ValueError(f"k is {k!r}: it must be an integer of at least 1")
    return tuple(operator.index(k) for k in ks)


def _integers(name: str, values: Counts) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: expected one count for each prompt")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} holds {array.dtype}: counts must be integers")
    return array.astype(np.int64)


def _strata(benchmarks_P: Labels | None, prompts: int) -> Labels:
    names = [""] * prompts if benchmarks_P is None else benchmarks_P
    if len(names) != prompts or not prompts:
        raise ValueError(f"{len(names)} benchmark names for {prompts} prompts: one each is needed")
    return names


def _redrawn_mass(
    c_P: npt.NDArray[np.int64],
    n: int,
    weights_P: Array,
    resamples: int,
    rng: np.random.Generator,
) -> Array:
    # Each prompt's draws lie side by side: the generator then keeps its set-up for that (n, p).
    drawn_PR = rng.binomial(n, c_P[:, None] / max(n, 1), (len(c_P), resamples))
    cells_PR = drawn_PR + np.arange(resamples) * (n + 1)
    weights = np.repeat(weights_P, resamples)
    mass = np.bincount(cells_PR.ravel(), weights, minlength=resamples * (n + 1))
    return np.asarray(mass.reshape(resamples, n + 1), dtype=np.float64)


def _with_replacement(
    c_P: npt.NDArray[np.int64], n_P: npt.NDArray[np.int64], ks: Sequence[int]
) -> Array:
    wrong_P = 1 - c_P / np.maximum(n_P, 1)
    ks_K = _capped(ks, int(n_P.max(initial=0)))
    return np.asarray(1 - wrong_P[:, None] ** ks_K, dtype=np.float64)


def _capped(ks: Sequence[int], n: int) -> npt.NDArray[np.int64]:
    # Above n there is no value, and an int of Python may be larger than any of numpy.
    return np.asarray([min(k, n + 1) for k in ks], np.int64)
