"""Which prompts that one policy never solved does another solve, and which does it lose?

Solved means at least one correct sample, which depends on n: both policies are given the same
number of samples. Since c = 0 at small n is noise, prompts whose accuracy changed significantly
are counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

SIGNIFICANCE = 0.05


class Share(NamedTuple):
    """A share of prompts with its interval; NaN where there are none to count."""

    value: float
    low: float
    high: float


class Transitions(NamedTuple):
    """Prompts by solved / unsolved before and after, and the shares newly solved and lost.

    `newly_solved` is the share of the prompts unsolved before, `newly_lost` of those solved before.
    """

    n_samples: int
    solved_solved: int
    solved_unsolved: int
    unsolved_solved: int
    unsolved_unsolved: int
    newly_solved: Share
    newly_lost: Share
    significantly_gained: int
    significantly_lost: int


def transitions(
    before_PN: Sequence[Sequence[bool]], after_PN: Sequence[Sequence[bool]]
) -> Transitions:
    """Compare two policies on the same prompts.

    Args:
        before_PN: The verdicts of each prompt's samples in order, first policy.
        after_PN: The same for the second. Where a prompt has more samples than the other policy
            drew, only the first ones count.

    Raises:
        ValueError: The numbers of prompts differ.
    """
    if len(before_PN) != len(after_PN):
        raise ValueError(f"{len(before_PN)} prompts before and {len(after_PN)} after: not the same")
    n_P = [min(map(len, pair)) for pair in zip(before_PN, after_PN, strict=True)]
    b_P = [sum(verdicts[:n]) for verdicts, n in zip(before_PN, n_P, strict=True)]
    a_P = [sum(verdicts[:n]) for verdicts, n in zip(after_PN, n_P, strict=True)]
    seen = [(b > 0, a > 0) for b, a in zip(b_P, a_P, strict=True)]
    kept, lost = seen.count((True, True)), seen.count((True, False))
    gained, never = seen.count((False, True)), seen.count((False, False))
    significant = [
        a - b
        for b, a, n in zip(b_P, a_P, n_P, strict=True)
        if fisher_exact(b, n, a, n) < SIGNIFICANCE
    ]
    return Transitions(
        min(n_P, default=0),
        kept,
        lost,
        gained,
        never,
        wilson(gained, gained + never),
        wilson(lost, kept + lost),
        sum(change > 0 for change in significant),
        sum(change < 0 for change in significant),
    )


def wilson(successes: int, trials: int, z: float = 1.959963984540054) -> Share:
    """Return a share with its Wilson score interval (E. B. Wilson, JASA 1927).

    Args:
        successes: Number of successes.
        trials: Number of trials; 0 gives NaN.
        z: Normal quantile of the level; the default is that of 95%.
    """
    if not trials:
        return Share(math.nan, math.nan, math.nan)
    share, squeeze = successes / trials, 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / squeeze
    half = z / squeeze * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    return Share(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


@lru_cache(maxsize=65536)
def fisher_exact(c_before: int, n_before: int, c_after: int, n_after: int) -> float:
    """Return the two-sided p-value of Fisher's exact test of equal accuracy.

    The sum of the hypergeometric probabilities that are at most that of the table observed (R. A.
    Fisher, 1935).

    Args:
        c_before: Correct samples of the first policy.
        n_before: Its samples.
        c_after: Correct samples of the second policy.
        n_after: Its samples.
    """
    correct, total = c_before + c_after, n_before + n_after
    x = np.arange(max(0, correct - n_after), min(correct, n_before) + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    log_ways = -(log_factorial[x] + log_factorial[n_before - x])
    log_ways -= log_factorial[correct - x] + log_factorial[n_after - correct + x]
    ways = np.exp(log_ways - log_ways.max())
    # Equally likely tables differ by rounding: the margin keeps them in the sum.
    as_rare = ways <= ways[c_before - x[0]] * (1 + 1e-7)
    return float(min(1.0, ways[as_rare].sum() / ways.sum()))
