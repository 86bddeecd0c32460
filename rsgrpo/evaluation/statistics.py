"""All that a graded file says in numbers: pass@k, avg@n and maj@k with both intervals.

A mean is over the benchmarks that have n >= k, and called "mean" only where those are all: another
one says over how many it is and which are missing. So the six benchmarks have a mean up to k = 32
where MATH500 has 32 samples, and a mean of five above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsgrpo.errors import UserError
from rsgrpo.evaluation.answers import Answers
from rsgrpo.evaluation.majority import Majority, majority, mean_majority
from rsgrpo.evaluation.passk import (
    mean_pass_at_k,
    pass_at_k,
    prompt_interval,
    sampling_interval,
)
from rsgrpo.evaluation.resampling import MEAN, Array, Interval
from rsgrpo.records import StatisticRow

_FIGURES = ("value", "low", "high", "sampling_low", "sampling_high")


class View(NamedTuple):
    """Prompts that one row sums up, and the values of k for which they do."""

    name: str
    chosen_P: npt.NDArray[np.intp]
    ks: tuple[int, ...]


class _Figures(NamedTuple):
    """Mean, interval over prompts and interval over samples, each for every k."""

    value_K: Array
    over_prompts: Interval
    over_samples: Interval


def statistic_rows(
    answers: Answers, ks: Sequence[int], *, resamples: int = 2000, seed: int = 0
) -> list[StatisticRow]:
    """Return pass@k, then avg@n, then maj@k where answers are known.

    Args:
        answers: The prompts of one policy.
        ks: The values of k.
        resamples: Bootstrap draws of the intervals.
        seed: Seed of the draws.

    Returns:
        A row for each benchmark and k, then for the means; figures are NaN where a prompt has
        fewer than k samples.

    Raises:
        ValueError: As for `pass_at_k`.
    """
    draws = {"resamples": resamples, "seed": seed}

    def passk(at: Any, ks: Sequence[int]) -> _Figures:
        return _passk_figures(answers, at, ks, draws)

    rows = list(_rows("pass@k", answers, ks, passk))
    averages = _rows("avg@n", answers, (1,), passk)
    rows += [row._replace(k=None) for row in averages]
    if answers.votes_P is not None:
        found = majority(answers.votes_P, answers.n_P, ks, seed=seed)

        def maj(at: Any, asked: Sequence[int]) -> _Figures:
            return _majority_figures(answers, found, at, [ks.index(k) for k in asked], draws)

        rows += _rows("maj@k", answers, ks, maj)
    return rows


def views(
    benchmarks_P: npt.NDArray[np.str_], n_P: npt.NDArray[np.int64], ks: Sequence[int]
) -> Iterator[View]:
    """Yield each benchmark with every k, then each mean with the k that it is for.

    Args:
        benchmarks_P: The benchmark of each prompt.
        n_P: Samples of each prompt; the fewest where there are several files.
        ks: The values of k.
    """
    names = list(dict.fromkeys(benchmarks_P.tolist()))
    for name in names:
        yield View(name, np.flatnonzero(benchmarks_P == name), tuple(ks))
    if len(names) > 1:
        fewest = {name: int(n_P[benchmarks_P == name].min()) for name in names}
        ks_of: dict[tuple[str, ...], list[int]] = {}
        for k in ks:
            short = tuple(name for name in names if fewest[name] < k)
            ks_of.setdefault(() if len(names) - len(short) < 2 else short, []).append(k)
        for short, some in ks_of.items():
            chosen_P = np.flatnonzero(~np.isin(benchmarks_P, short))
            yield View(_mean_name(len(names) - len(short), short), chosen_P, tuple(some))


def usable_ks(ks: Sequence[int] | None, n: int) -> tuple[int, ...]:
    """Return the values of k asked for, or powers of two up to n.

    Args:
        ks: What was asked for; None for the powers of two.
        n: The largest k that has a value anywhere.

    Raises:
        UserError: A k is below 1, or none has a value.
    """
    if ks is None:
        return powers_of_two(n)
    if not ks or min(ks) < 1:
        raise UserError(f"k is {list(ks)}: give integers of at least 1, such as --k 1,2,4,8")
    if min(ks) > n:
        raise UserError(
            f"k={min(ks)} is above the {n} samples that a prompt has at most: choose a "
            f"smaller k or draw more samples"
        )
    return tuple(dict.fromkeys(ks))


def largest_k(benchmarks_P: npt.NDArray[np.str_], n_P: npt.NDArray[np.int64]) -> int:
    """Return the largest k for which a benchmark has a value."""
    return max(int(n_P[benchmarks_P == name].min()) for name in np.unique(benchmarks_P))


def powers_of_two(largest: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... up to `largest`."""
    return tuple(1 << power for power in range(largest.bit_length()))


def k_warnings(benchmark: str, k: int | None, n: int) -> list[str]:
    """Return why the figures of a row are missing or weak; rows of one benchmark say the same."""
    if k is None or k <= n / 4:
        return []
    if k > n:
        return [f"{benchmark}: a prompt has only n={n} samples, so no value above k = {n}"]
    return [f"{benchmark}: k is above n/4 = {n / 4:g}, where intervals are not to be trusted"]


def public(row: NamedTuple) -> dict[str, Any]:
    """Return a row for people and JSON: None where a figure is NaN, and the row's warnings."""
    fields: dict[str, Any] = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in row._asdict().items()
    }
    n = min(size for name, size in fields.items() if name.startswith("n_samples"))
    return {**fields, "warnings": k_warnings(fields["benchmark"], fields["k"], n)}


def _mean_name(count: int, short: Sequence[str]) -> str:
    return f"{MEAN} of {count} (without {', '.join(short)})" if short else MEAN


def _rows(
    metric: str,
    answers: Answers,
    ks: Sequence[int],
    figures_of: Callable[[Any, Sequence[int]], _Figures],
) -> Iterator[StatisticRow]:
    for name, at, some in views(answers.benchmarks_P, answers.n_P, ks):
        found = figures_of(at, some)
        columns = (found.value_K, *found.over_prompts, *found.over_samples)
        for k, *figures in zip(some, *columns, strict=True):
            yield StatisticRow(
                metric=metric,
                benchmark=name,
                k=int(k),
                **dict(zip(_FIGURES, map(float, figures), strict=True)),
                n_samples=int(answers.n_P[at].min()),
                n_prompts=len(at),
            )


def _passk_figures(answers: Answers, at: Any, ks: Sequence[int], draws: dict[str, int]) -> _Figures:
    names_P, c_P, n_P = answers.benchmarks_P[at], answers.correct_P[at], answers.n_P[at]
    passk_PK = pass_at_k(c_P, n_P, ks)
    return _Figures(
        mean_pass_at_k(passk_PK, names_P),
        prompt_interval(passk_PK, names_P, **draws),
        sampling_interval(c_P, n_P, ks, names_P, **draws),
    )


def _majority_figures(
    answers: Answers, found: Majority, at: Any, columns: Sequence[int], draws: dict[str, int]
) -> _Figures:
    names_P = answers.benchmarks_P[at]
    part = Majority(*(whole[at][:, columns] for whole in found))
    mean_K, over_samples = mean_majority(part, names_P)
    return _Figures(mean_K, prompt_interval(part.maj_PK, names_P, **draws), over_samples)
