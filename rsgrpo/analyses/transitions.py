"""Which prompts that one policy never solved does another solve, and which does it lose?

Solved means at least one correct sample, which depends on n: both policies are given the same
number of samples. Were they equal, a prompt would be as likely gained as lost: McNemar's exact test
asks that of the prompts that changed. Since c = 0 at small n is noise, prompts whose accuracy
changed significantly are counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsgrpo.analyses.samples import aligned, common_n, label_of, read_verdicts
from rsgrpo.errors import UserError
from rsgrpo.evaluation.compare import paired_difference

SIGNIFICANCE = 0.05
Row = dict[str, Any]
Verdicts = Sequence[Sequence[bool]]


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


def transition_table(
    before: Sequence[Path],
    after: Sequence[Path],
    *,
    n: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Row]:
    """Return the transitions between graded files, for each benchmark and for all prompts.

    Args:
        before: The graded files of each seed of the first policy.
        after: Those of the second, as many, or one on either side: seeds are compared one by one.
        n: Samples of each prompt that count, the first ones; by default the fewest there are.
        resamples: Bootstrap draws of the interval of the net gain, paired over prompts.
        seed: Seed of the draws.

    Returns:
        Rows `{before, after, benchmark, n_samples, n_prompts, solved_solved, solved_unsolved,
        unsolved_solved, unsolved_unsolved, newly_solved, newly_lost, mcnemar_p,
        significantly_gained, significantly_lost, net}`. The shares `newly_solved` (of the prompts
        unsolved before), `newly_lost` (of those solved before) and `net` (gained less lost, of all)
        have bounds of 95% in `..._low` and `..._high`. Several seeds end with rows of their means,
        where only `net` has bounds: over prompts and seeds.

    Raises:
        UserError: A file cannot be used, the prompts differ, a prompt has fewer than n samples, or
            the seeds cannot be paired.
    """
    prompts, read = aligned({str(f): read_verdicts(f) for f in (*before, *after)})
    n = common_n(n, read)
    solved = {name: [verdicts[p][:n] for p in prompts] for name, verdicts in read.items()}
    benchmarks = [prompt.benchmark for prompt in prompts]
    pairs = _paired_seeds(before, after)
    rows = [
        row
        for b, a in pairs
        for row in _views(
            benchmarks,
            [(solved[str(b)], solved[str(a)])],
            resamples,
            seed,
            before=label_of(b),
            after=label_of(a),
        )
    ]
    if len(pairs) > 1:
        matched = [(solved[str(b)], solved[str(a)]) for b, a in pairs]
        names = {"before": _together(before), "after": _together(after)}
        rows += _views(benchmarks, matched, resamples, seed, **names)
    return rows


def mcnemar_exact(gained: int, lost: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: gains and losses are equally likely.

    Args:
        gained: Prompts unsolved before and solved after.
        lost: Prompts solved before and unsolved after.
    """
    changed = gained + lost
    ways = total = 1
    for i in range(min(gained, lost)):
        ways = ways * (changed - i) // (i + 1)
        total += ways
    return min(1.0, 2 * total / (1 << changed))


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


def _together(seeds: Sequence[Path]) -> str:
    return f"{len(seeds)} seeds" if len(seeds) > 1 else label_of(seeds[0])


def _paired_seeds(before: Sequence[Path], after: Sequence[Path]) -> list[tuple[Path, Path]]:
    if len(before) != len(after) and 1 not in (len(before), len(after)):
        raise UserError(
            f"there are {len(before)} seeds before and {len(after)} after: give as many of both, "
            f"or one of either"
        )
    count = max(len(before), len(after))
    return [(before[i % len(before)], after[i % len(after)]) for i in range(count)]


def _views(
    benchmarks: Sequence[str],
    pairs: Sequence[tuple[Verdicts, Verdicts]],
    resamples: int,
    seed: int,
    **names: str,
) -> list[Row]:
    views = list(dict.fromkeys(benchmarks))
    rows = []
    for view in [*views, *(["all"] if len(views) > 1 else [])]:
        kept = [place for place, name in enumerate(benchmarks) if view in ("all", name)]
        chosen = [([b[p] for p in kept], [a[p] for p in kept]) for b, a in pairs]
        found = [transitions(b, a) for b, a in chosen]
        rows.append(
            {
                **names,
                "benchmark": view,
                "n_samples": found[0].n_samples,
                "n_prompts": len(kept),
                **(_counted(found[0]) if len(found) == 1 else _averaged(found)),
                **_net(chosen, resamples, seed),
            }
        )
    return rows


def _counted(found: Transitions) -> Row:
    row = {
        **found._asdict(),
        "mcnemar_p": mcnemar_exact(found.unsolved_solved, found.solved_unsolved),
    }
    del row["n_samples"]
    for name in ("newly_solved", "newly_lost"):
        share: Share = row.pop(name)
        bounds = [None if math.isnan(value) else value for value in share]
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), bounds, strict=True))
    return row


def _averaged(found: Sequence[Transitions]) -> Row:
    rows = [_counted(one) for one in found]
    unknown = ("_low", "_high", "_p")
    return {
        name: None if name.endswith(unknown) else _mean_of_known([row[name] for row in rows])
        for name in rows[0]
    }


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _net(chosen: Sequence[tuple[Verdicts, Verdicts]], resamples: int, seed: int) -> Row:
    before, after = (
        [np.array([[float(any(verdicts))] for verdicts in side]) for side in sides]
        for sides in zip(*chosen, strict=True)
    )
    found = paired_difference(after, before, resamples=resamples, seed=seed)
    figures = [float(values_K[0]) for values_K in found[:3]]
    return dict(zip(("net", "net_low", "net_high"), figures, strict=True))
