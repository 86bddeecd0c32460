"""pass@k of 660 prompts x 1,024 samples x 11 k and both intervals, against loops in plain Python.

CPU time of this process; nothing here starts another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import median
from time import process_time
from typing import Any

import numpy as np

from rsgrpo.evaluation.passk import pass_at_k, prompt_interval, sampling_interval
from rsgrpo.evaluation.resampling import mean_weights

SIZES = {"aime24": 30, "aime25": 30, "hmmt24": 30, "hmmt25": 30, "cmimc25": 40, "math500": 500}
N, KS, RESAMPLES = 1024, tuple(1 << power for power in range(11)), 2000
REPETITIONS, LOOPED_RESAMPLES = 9, 10
TARGET, SECONDS = 20, 2.0


def run() -> list[str]:
    """Return the two ratios and the seconds that both intervals take."""
    names_P = [name for name, size in SIZES.items() for _ in range(size)]
    rng = np.random.default_rng(0)
    c_P = rng.binomial(N, rng.beta(0.5, 1.5, len(names_P)))
    n_P = np.full(len(names_P), N)
    passk_PK = pass_at_k(c_P, n_P, KS)
    counts = c_P.tolist()
    np.testing.assert_allclose(passk_PK, product_loop(counts), rtol=1e-9)
    ours, loop = _medians(lambda: pass_at_k(c_P, n_P, KS), lambda: product_loop(counts))
    both, looped, helped = _medians(
        lambda: (
            prompt_interval(passk_PK, names_P, resamples=RESAMPLES),
            sampling_interval(c_P, n_P, KS, names_P, resamples=RESAMPLES),
        ),
        lambda: resampling_loop(passk_PK.tolist(), counts, names_P, one_by_one()),
        lambda: resampling_loop(passk_PK.tolist(), counts, names_P, in_one_call()),
        repetitions=3,
    )
    scaled, scaled_helped = (s * RESAMPLES / LOOPED_RESAMPLES for s in (looped, helped))
    setting = f"{len(names_P)} prompts x {N:,} samples x {len(KS)} k, CPU time"
    return [
        f"passk: points {loop / ours:.0f}x a pure-Python product loop (target >= {TARGET}x): "
        f"{ours * 1e3:.2f} ms against {loop * 1e3:.0f} ms; {setting}, medians of {REPETITIONS}",
        f"passk: both intervals {scaled / both:.0f}x a Python resampling loop (target >= "
        f"{TARGET}x) in {both:.2f} s (target < {SECONDS:g} s) against {scaled:.0f} s, scaled from "
        f"{LOOPED_RESAMPLES} of {RESAMPLES:,} resamples; {setting}, medians of 3",
        f"passk: both intervals {scaled_helped / both:.0f}x the same loop where numpy draws each "
        f"prompt's new count (no target): {both:.2f} s against {scaled_helped:.1f} s; {setting}",
    ]


def product_loop(counts: Sequence[int]) -> list[list[float]]:
    """Return pass@k by the product of arXiv 2107.03374, prompt by prompt and k by k."""
    return [[_product(N, c, k) for k in KS] for c in counts]


def resampling_loop(
    passk_PK: list[list[float]],
    counts: Sequence[int],
    names_P: Sequence[str],
    binomial: Callable[[float], int],
) -> tuple[Any, Any]:
    """Return the means of a few resamples of prompts and of a few of samples, one at a time.

    It looks pass@k up in a table, so that only the resampling is compared.
    """
    rng = random.Random(0)
    weights = mean_weights(names_P).tolist()
    strata = [[at for at, name in enumerate(names_P) if name == chosen] for chosen in SIZES]
    table = pass_at_k(range(N + 1), [N] * (N + 1), KS).tolist()
    over_prompts, over_samples = [], []
    for _ in range(LOOPED_RESAMPLES):
        drawn = [at for stratum in strata for at in rng.choices(stratum, k=len(stratum))]
        over_prompts.append(_weighted([passk_PK[at] for at in drawn], weights))
        again = [binomial(c / N) for c in counts]
        over_samples.append(_weighted([table[c] for c in again], weights))
    return over_prompts, over_samples


def one_by_one() -> Callable[[float], int]:
    """Return a draw of how many of N new samples are correct."""
    uniform = random.Random(0).random
    return lambda p: sum(uniform() < p for _ in range(N))


def in_one_call() -> Callable[[float], int]:
    """Return a draw of the same number at once."""
    rng = np.random.default_rng(0)
    return lambda p: int(rng.binomial(N, p))


def _weighted(rows: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    pairs = list(zip(rows, weights, strict=True))
    return [sum(weight * row[at] for row, weight in pairs) for at in range(len(KS))]


def _product(n: int, c: int, k: int) -> float:
    if n - c < k:
        return 1.0
    product = 1.0
    for i in range(n - c + 1, n + 1):
        product *= 1.0 - k / i
    return 1.0 - product


def _medians(*ways: Callable[[], Any], repetitions: int = REPETITIONS) -> list[float]:
    """Return the median CPU seconds of each way, taken in turns."""
    rounds = [[_seconds(way) for way in ways] for _ in range(repetitions)]
    return [median(times) for times in zip(*rounds, strict=True)]


def _seconds(way: Callable[[], Any]) -> float:
    start = process_time()
    way()
    return process_time() - start
