"""How spread out are a policy's answers to a prompt, before training and after?

The entropy in nats of the distribution over answer classes. The plug-in estimate from n samples is
too low, by about (classes - 1) / 2n, so both sides are brought to one n: the plug-in entropy
expected among n samples drawn without replacement, exact by the hypergeometric distribution. Its
bias is then nearly the same on both sides and mostly cancels in the difference. The estimate with
Miller and Madow's correction (G. A. Miller, 1955) from all samples stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsgrpo.analyses.answer_classes import (
    PAIRS,
    Answered,
    Judge,
    answer_classes,
)
from rsgrpo.analyses.samples import Prompt, aligned, common_n, has_column, read_samples
from rsgrpo.analyses.strategies import is_countdown
from rsgrpo.evaluation.compare import paired_difference
from rsgrpo.evaluation.resampling import Array, benchmark_views, mean_weights

Row = dict[str, Any]


class Drawn(NamedTuple):
    """What is kept of a sample; `token_entropy` is its mean per token in nats, where known."""

    answered: Answered
    on_countdown: bool
    token_entropy: float | None


def entropy_rows(
    before: Sequence[Path],
    after: Sequence[Path],
    judge: Judge,
    *,
    n: int | None = None,
    pairs: int = PAIRS,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Row]:
    """Return one row for each benchmark, and for the mean where there are several.

    Args:
        before: The graded files of each seed of the first policy.
        after: Those of the second; all on the same prompts, the probe set.
        judge: Says which wrong answers are the same (`answer_classes.pool_judge`).
        n: Samples at which they are compared; by default the fewest that any prompt has.
        pairs: Comparisons of answers for a prompt at most.
        resamples: Bootstrap draws, paired over prompts and crossed with seeds.
        seed: Seed of the draws.

    Returns:
        Rows `{benchmark, n_samples, n_prompts, before, after, difference, difference_low,
        difference_high, p_value, before_corrected, after_corrected, token_before, token_after,
        capped_prompts, undecided_pairs}`, entropies in nats; those of tokens are None where a file
        has none.

    Raises:
        UserError: A file cannot be used, the prompts differ, or a prompt has fewer than n samples.
    """
    prompts, drawn = aligned({str(file): _read(file) for file in (*before, *after)})
    n = common_n(n, drawn)
    found = {
        file: _Entropies([samples[p] for p in prompts], n, judge, pairs)
        for file, samples in drawn.items()
    }
    sides = [[found[str(file)] for file in files] for files in (before, after)]
    names = np.asarray([prompt.benchmark for prompt in prompts])
    return [
        _row(view, names, sides, n, resamples, seed) for view in benchmark_views(names.tolist())
    ]


def entropy(class_counts: Sequence[int]) -> float:
    """Return the plug-in entropy in nats of samples sorted into classes."""
    n = sum(class_counts)
    return -math.fsum(m / n * math.log(m / n) for m in class_counts if m)


def miller_madow(class_counts: Sequence[int]) -> float:
    """Return the entropy in nats with Miller and Madow's correction, (classes - 1) / 2n more."""
    return entropy(class_counts) + (len(class_counts) - 1) / (2 * sum(class_counts))


def rarefied_entropy(class_counts: Sequence[int], to: int) -> float:
    """Return the plug-in entropy in nats expected among `to` of the samples.

    The sum over classes of E[-(M / to) log(M / to)], M hypergeometric.

    Args:
        class_counts: Samples in each class.
        to: Number of samples drawn without replacement, at most all (else NaN).
    """
    n = sum(class_counts)
    if to > n:
        return math.nan
    return math.fsum(_expected_term(m, n, to) for m in class_counts)


@lru_cache(maxsize=65536)
def _expected_term(m: int, n: int, to: int) -> float:
    drawn = range(max(1, to - (n - m)), min(m, to) + 1)
    ways = math.comb(n, to)
    return -math.fsum(
        math.comb(m, x) * math.comb(n - m, to - x) / ways * (x / to) * math.log(x / to)
        for x in drawn
    )


class _Entropies:
    """One file's entropies: an array over prompts for each kind."""

    def __init__(
        self, prompts: Sequence[Sequence[Drawn]], n: int, judge: Judge, pairs: int
    ) -> None:
        chains = [place for place, drawn in enumerate(prompts) if drawn[0].on_countdown]
        answers = [[d.answered for d in drawn] for drawn in prompts]
        classes = answer_classes(answers, judge, pairs, chains)
        self.rarefied_P = np.array([rarefied_entropy(c.counts, n) for c in classes])
        self.corrected_P = np.array([miller_madow(c.counts) for c in classes])
        self.token_P = np.array([_mean_token_entropy(drawn) for drawn in prompts])
        self.capped_P = np.array([c.capped for c in classes])
        self.undecided_P = np.array([c.undecided for c in classes])


def _read(file: Path) -> dict[Prompt, list[Drawn]]:
    columns = ["problem", "extracted", "verdict"]
    if has_column(file, "mean_entropy"):
        columns.append("mean_entropy")
    return read_samples(file, columns, _keep)


def _keep(row: Mapping[str, Any]) -> Drawn:
    answered = Answered(row["extracted"] or "", row["verdict"])
    return Drawn(answered, is_countdown(row["problem"]), row.get("mean_entropy"))


def _mean_token_entropy(drawn: Sequence[Drawn]) -> float:
    known = [d.token_entropy for d in drawn if d.token_entropy is not None]
    return math.fsum(known) / len(known) if known else math.nan


def _row(
    view: tuple[str, Any],
    names: Any,
    sides: Sequence[Sequence[_Entropies]],
    n: int,
    resamples: int,
    seed: int,
) -> Row:
    benchmark, chosen = view
    weights_P = mean_weights(names[chosen])

    def mean(arrays: Sequence[Array]) -> float | None:
        value = float(np.mean([weights_P @ values_P[chosen] for values_P in arrays]))
        return None if math.isnan(value) else value

    before, after = ([e.rarefied_P[chosen, None] for e in side] for side in sides)
    found = paired_difference(after, before, names[chosen], resamples=resamples, seed=seed)
    corrected = [mean([e.corrected_P for e in side]) for side in sides]
    token = [mean([e.token_P for e in side]) for side in sides]
    everything = [e for side in sides for e in side]
    return {
        "benchmark": benchmark,
        "n_samples": n,
        "n_prompts": int(chosen.sum()),
        "before": mean([e.rarefied_P for e in sides[0]]),
        "after": mean([e.rarefied_P for e in sides[1]]),
        "difference": float(found.difference_K[0]),
        "difference_low": float(found.low_K[0]),
        "difference_high": float(found.high_K[0]),
        "p_value": float(found.p_value_K[0]),
        "before_corrected": corrected[0],
        "after_corrected": corrected[1],
        "token_before": token[0],
        "token_after": token[1],
        "capped_prompts": int(sum(e.capped_P[chosen].sum() for e in everything)),
        "undecided_pairs": int(sum(e.undecided_P[chosen].sum() for e in everything)),
    }
