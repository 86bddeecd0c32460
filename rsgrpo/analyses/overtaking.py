"""At which k does the base policy overtake the policy that was trained from it?

Reinforcement learning that sharpens a policy raises pass@1 and may lower pass@k at high k. Both are
compared on the same prompts, up to a quarter of the samples, beyond which an estimate of pass@k is
hardly more than whether a prompt was ever solved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsgrpo.evaluation.compare import resampled_methods
from rsgrpo.evaluation.passk import pass_at_k
from rsgrpo.evaluation.resampling import mean_weights

Array = npt.NDArray[np.float64]
Counts = Mapping[Any, tuple[int, int]]
MOST_KS = 64
_ROUNDING = 1e-12
NAN = math.nan


class Overtaking(NamedTuple):
    """Whether the base overtakes (yes, no, unknown), with what was measured.

    `at_high` is pass@k at `high_k`, policy minus base, within [`low`, `high`]; `crossing` the k
    from which on the base, below before, is level or above and at `high_k` above, within
    [`crossing_low`, `crossing_high`] over the resamples in which it crosses, of which
    `crossing_share` is the share. NaN where there is none.
    """

    found: str
    evidence: str
    high_k: int = 0
    at_high: float = NAN
    low: float = NAN
    high: float = NAN
    crossing: float = NAN
    crossing_low: float = NAN
    crossing_high: float = NAN
    crossing_share: float = NAN


def overtaking(
    policy: Counts,
    base: Counts,
    *,
    high_k: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Overtaking:
    """Compare a trained policy with its base at k=1 and at high k.

    Args:
        policy: `{(benchmark, problem id): (correct samples, samples)}` of the trained policy.
        base: The same of its base; the same prompts.
        high_k: The high k; None: a quarter of the fewest samples of any prompt.
        resamples: Draws of the paired bootstrap over prompts.
        seed: Seed of the draws.
    """
    if set(policy) != set(base):
        words = f"policy and base were scored on different prompts ({len(policy)} and {len(base)})"
        return Overtaking("unknown", words)
    keys = sorted(policy)
    fewest = min(n for counts in (policy, base) for _, n in counts.values())
    k = fewest // 4 if high_k is None else high_k
    if not 1 < k <= fewest:
        words = f"{fewest} samples of a prompt: too few to compare pass@{max(k, 2)}"
        return Overtaking("unknown", words)
    ks = grid(k)
    passk = [_passk(counts, keys, ks)[None] for counts in (policy, base)]
    names = [benchmark for benchmark, _ in keys]
    drawn = resampled_methods(passk, names, resamples=resamples, seed=seed)
    value_K = mean_weights(names) @ (passk[0][0] - passk[1][0])
    return _judged(ks, np.asarray(value_K, np.float64), drawn[0] - drawn[1])


def grid(high_k: int) -> list[int]:
    """Return the values of k from 1 to `high_k`: each one up to 64, then 64 in equal ratios."""
    if high_k <= MOST_KS:
        return list(range(1, high_k + 1))
    return sorted({round(k) for k in np.geomspace(1, high_k, MOST_KS)})


def crossing(ks: Sequence[int], differences_K: Array) -> float:
    """Return the k from which on the first is no longer above, NaN where it is not below at last.

    Curves that only meet, as at pass@k = 1, do not cross. NaN also where the first is not above at
    the smallest k.
    """
    above = np.flatnonzero(differences_K > 0)
    if not len(above) or above[0] != 0 or not differences_K[-1] < -_ROUNDING:
        return NAN
    return float(ks[int(above[-1]) + 1])


def _passk(counts: Counts, keys: Sequence[Any], ks: Sequence[int]) -> Array:
    c_P, n_P = zip(*(counts[key] for key in keys), strict=True)
    return pass_at_k(c_P, n_P, ks)


def _judged(ks: Sequence[int], value_K: Array, differences_RK: Array) -> Overtaking:
    (low_1, high_1), (low, high) = (
        np.quantile(differences_RK[:, column], (0.025, 0.975)) for column in (0, -1)
    )
    found = _found((float(value_K[0]), low_1), (float(value_K[-1]), high))
    at, crossings = crossing(ks, value_K), [crossing(ks, row_K) for row_K in differences_RK]
    crossed = [k for k in crossings if not math.isnan(k)]
    first, last = np.quantile(crossed, (0.025, 0.975)).tolist() if crossed else (NAN, NAN)
    share = len(crossed) / len(crossings)
    words = (
        f"policy minus base {value_K[0]:+.3f} [{low_1:+.3f}, {high_1:+.3f}] at k=1, "
        f"{value_K[-1]:+.3f} [{low:+.3f}, {high:+.3f}] at k={ks[-1]}"
    )
    if not math.isnan(at):
        words += (
            f"; the curves cross at k={at:g} [{first:g}, {last:g}], in {share:.0%} of the resamples"
        )
    at_high = (float(value_K[-1]), float(low), float(high))
    return Overtaking(found, words, ks[-1], *at_high, at, first, last, share)


def _found(at_1: tuple[float, float], at_high: tuple[float, float]) -> str:
    """Judge (difference, lower bound) at k=1 and (difference, upper bound) at the high k."""
    if at_1[0] <= 0 or at_high[0] >= 0:
        return "no"
    return "yes" if at_1[1] > 0 and at_high[1] < 0 else "unknown"
