"""maj@k: how often the most frequent of k answers is right, and how sure that is.

The k answers are drawn without replacement from a prompt's n; all correct samples are one class,
wrong ones are classes of equal answers, samples without an answer do not vote, ties are broken
evenly. The estimate is a mean over `DRAWS` such draws, each the first k of one shuffle of the n
(multivariate hypergeometric): without bias, with a standard error of at most 0.5 / sqrt(DRAWS) =
0.031 for one prompt and 0.031 / sqrt(P) for the mean of P of them. k = 1 and k = n are exact.

The uncertainty over samples is that of answers resampled with replacement within each prompt. A
mean over subsets varies no more than a mean over the n // k that do not overlap (k s2 / n is the
upper bound of Hoeffding 1948, theorem 5.2, s2 the variance of one vote): exact for k = 1 and k = n,
on the wide side between. s2 is measured on `DRAWS` / 2 votes of k answers drawn with replacement;
the error of the draws is added. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsgrpo.evaluation.passk import checked_ks
from rsgrpo.evaluation.resampling import Array, Interval, Labels, mean_weights

DRAWS = 256


class Majority(NamedTuple):
    """maj@k of each prompt and the variance of it over samples; NaN where n < k."""

    maj_PK: Array
    variance_PK: Array


def majority(
    votes_P: Sequence[npt.NDArray[np.int64]],
    n_P: Sequence[int] | npt.NDArray[np.integer],
    ks: Sequence[int],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Majority:
    """Return maj@k of each prompt.

    Args:
        votes_P: For each prompt the number of samples in each class of equal answers, the correct
            ones first (0 where there are none).
        n_P: Samples of each prompt; those in no class have no answer.
        ks: The values of k, each at least 1.
        seed: Seed of the draws.
        draws: Number of draws for each prompt and k.

    Raises:
        ValueError: A k is no positive integer, or classes hold more samples than there are.
    """
    ks = checked_ks(ks)
    sizes_P = np.asarray(n_P, np.int64)
    found = np.full((2, len(sizes_P), len(ks)), np.nan)
    for n in np.unique(sizes_P).tolist():
        held = sorted({k for k in ks if k <= n})
        if held:
            columns = [at for at, k in enumerate(ks) if k <= n]
            places = [held.index(ks[at]) for at in columns]
            election = _Election(n, held, draws, seed)
            for prompt in np.flatnonzero(sizes_P == n).tolist():
                found[:, prompt, columns] = election.held_on(votes_P[prompt])[:, places]
    return Majority(*found)


def mean_majority(
    found: Majority, benchmarks_P: Labels, level: float = 0.95
) -> tuple[Array, Interval]:
    """Return the mean over prompts, uniform over benchmarks, and its interval over samples.

    The interval is normal, a mean over prompts being a sum of independent terms; within [0, 1].
    """
    weights_P = mean_weights(benchmarks_P)
    mean_K = weights_P @ found.maj_PK
    half_K = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(weights_P**2 @ found.variance_PK)
    return mean_K, Interval(np.clip(mean_K - half_K, 0, 1), np.clip(mean_K + half_K, 0, 1))


class _Election:
    """Draws of k of n places that serve every prompt with n samples, whichever k are asked for.

    Each prompt puts its samples on the places in an order of its own, so that the errors of two
    prompts are independent though the draws are the same.
    """

    def __init__(self, n: int, ks: list[int], draws: int, seed: int) -> None:
        self._n, self._ks = n, ks
        self._rng = np.random.default_rng((seed, n))
        places = np.tile(np.arange(n, dtype=np.int32), (draws, 1))
        self._without = self._rng.permuted(places, axis=1)[:, : ks[-1]]
        self._with = self._rng.integers(0, n, (draws // 2, n), dtype=np.int32)[:, : ks[-1]]

    def held_on(self, votes: npt.NDArray[np.int64]) -> Array:
        """Return maj@k and its variance, each for every k."""
        silent = self._n - int(votes.sum())
        if silent < 0:
            raise ValueError(f"classes hold {votes.sum()} samples of {self._n}")
        if not votes[0] or votes[0] == self._n:
            return np.stack([np.full(len(self._ks), float(votes[0] > 0)), np.zeros(len(self._ks))])
        labels = np.repeat(np.arange(len(votes) + 1), [*votes, silent])
        labels = self._rng.permutation(labels)
        won_DK = self._won(labels[self._without], len(votes))
        again_DK = self._won(labels[self._with], len(votes))
        sizes_K = np.asarray(self._ks)
        maj_K, noise_K = won_DK.mean(axis=0), won_DK.var(axis=0) / len(won_DK)
        exact_K = sizes_K == 1
        share = votes[0] / self._n
        maj_K[exact_K], noise_K[exact_K] = share, 0
        spread_K = np.where(exact_K, share * (1 - share), again_DK.var(axis=0))
        return np.stack([maj_K, spread_K / (self._n // sizes_K) + noise_K])

    def _won(self, labels_DN: npt.NDArray[np.int64], classes: int) -> Array:
        """Return the share of the vote's outcome that is right: 1, 0, or one in so many ties."""
        draws = len(labels_DN)
        cells_DN = labels_DN + np.arange(draws)[:, None] * (classes + 1)
        counts: Any = np.zeros((draws, classes), np.int64)
        won_DK = np.empty((draws, len(self._ks)))
        for column, (start, stop) in enumerate(pairwise([0, *self._ks])):
            added = np.bincount(cells_DN[:, start:stop].ravel(), minlength=draws * (classes + 1))
            counts += added.reshape(draws, classes + 1)[:, :classes]
            most = counts.max(axis=1)
            ties = (counts == most[:, None]).sum(axis=1)
            won_DK[:, column] = ((counts[:, 0] == most) & (most > 0)) / ties
        return won_DK
