"""Which trials are best, and which of the others cannot be told apart from them.

Trials meet the same prompts, so that they are compared by a paired bootstrap over prompts and
seeds. The best one is chosen by the numbers that it is compared by, which makes it look better than
it is. p-values are therefore corrected (Holm) as if every trial had been compared with every other:
in 200 simulated sweeps of 8 equal trials of one seed, one was taken for worse in 4.5% of them, and
in 14% where the correction was for the 7 comparisons with the best alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.evaluation.compare import Difference, holm, paired_difference
from rsgrpo.evaluation.differences import FEW_SEEDS
from rsgrpo.evaluation.resampling import Array
from sweeps.config import Objective
from sweeps.scored import SPREAD, Scored, TrialValue, prompt_values, read_scored, trial_value
from sweeps.space import Sweep

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LEVEL = 0.05
_HALF_WIDTHS = 1.959964  # standard errors in half of a 95% interval


class Comparison(NamedTuple):
    """A trial against another one, in one metric: `trial` minus `other`, 95% interval.

    `p_value` is two-sided, `p_holm` corrected for the number of comparisons made. `apart` is None
    where nothing can be tested: one seed and no values of single prompts.
    """

    trial: int
    other: int
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    apart: bool | None


class Best(NamedTuple):
    """The best trial, or the Pareto front in the order of its first objective.

    `comparisons` are of each other feasible trial with the best; of neighbours on a front, in each
    objective. `sentences` say it in words, `warnings` what weakens it.
    """

    trials: list[int]
    values: list[TrialValue]
    comparisons: list[Comparison]
    sentences: list[str]
    warnings: list[str]


def find_best(trials: Sequence[FrozenTrial], plan: Sweep, root: Path) -> Best:
    """Return the best of a study's complete trials that keep all constraints.

    Args:
        trials: All trials of the study.
        plan: Its objectives and evaluation.
        root: The folder of all stages' folders.

    Raises:
        UserError: No trial is complete, or none keeps the constraints.
    """
    feasible = _feasible(trials)
    scored = {trial.number: read_scored(root, trial, plan.config) for trial in feasible}
    found = _one(feasible, scored, plan) if len(plan.sweep.objectives) == 1 else None
    best = found or _front(feasible, scored, plan)
    left_out = _complete(trials) - len(feasible)
    if left_out:
        miss = "trials miss" if left_out > 1 else "trial misses"
        best.sentences.append(f"{left_out} {miss} a constraint: left out")
    return best


def is_feasible(trial: FrozenTrial) -> bool:
    """Return whether a trial keeps all of its constraints."""
    return all(value <= 0 for value in trial.constraints.values())


def pareto_front(trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> list[int]:
    """Return the numbers of the trials that no other one beats, by their first objective.

    A trial is beaten by one that is at least as good in all objectives and better in one.
    """
    signed = {t.number: tuple(_signed(t.values, objectives)) for t in trials}
    front = [
        number
        for number, values in signed.items()
        if not any(_beats(other, values) for other in signed.values())
    ]
    return sorted(front, key=lambda number: (signed[number], -number), reverse=True)


def compare_trials(
    pairs: Iterable[tuple[Scored, Scored, str]], config: Config, family: int = 0
) -> list[Comparison]:
    """Return each pair's difference in a metric, with corrected p-values.

    Args:
        pairs: First trial, second trial, metric.
        config: Its evaluation says how many resamples there are, and their seed.
        family: The number of comparisons that the pairs were chosen from, where it is larger than
            theirs: the p-values are corrected for it.
    """
    asked = list(pairs)
    tested = [_difference(first, second, name, config) for first, second, name in asked]
    found = [difference for difference, _ in tested]
    p_values = [_p_value(d, config.evaluation.resamples, least) for d, least in tested]
    corrected = holm([*p_values, *[1.0] * (family - len(asked))])
    return [
        Comparison(first.number, second.number, name, *_bounds(d), p, float(raised), _apart(raised))
        for (first, second, name), d, p, raised in zip(
            asked, found, p_values, corrected, strict=False
        )
    ]


def _one(feasible: Sequence[FrozenTrial], scored: dict[int, Scored], plan: Sweep) -> Best:
    objective = plan.sweep.objectives[0]
    name = objective.metric
    ranked = sorted(feasible, key=lambda t: (-_signed(t.values, [objective])[0], t.number))
    best = ranked[0].number
    pairs = [(scored[trial.number], scored[best], name) for trial in ranked[1:]]
    compared = compare_trials(pairs, plan.config, math.comb(len(ranked), 2))
    values = [trial_value(scored[trial.number], name, plan.config) for trial in ranked]
    sentences = [f"trial {best} is the best of {len(ranked)}: {_in_words(values[0])}"]
    sentences += _told_apart(compared)
    return Best([best], values, compared, sentences, _warnings(values))


def _front(feasible: Sequence[FrozenTrial], scored: dict[int, Scored], plan: Sweep) -> Best:
    names = [objective.metric for objective in plan.sweep.objectives]
    front = pareto_front(feasible, plan.sweep.objectives)
    neighbours = list(pairwise(front))
    pairs = [(scored[a], scored[b], name) for a, b in neighbours for name in names]
    compared = compare_trials(pairs, plan.config, math.comb(len(feasible), 2) * len(names))
    values = [trial_value(scored[number], name, plan.config) for number in front for name in names]
    which = f"trials {_listed(front)} are" if len(front) > 1 else f"trial {front[0]} is"
    sentences = [f"of {len(feasible)} trials {which} beaten by no other in {' and '.join(names)}"]
    sentences += [_neighbours(pair, compared) for pair in neighbours]
    return Best(front, values, compared, sentences, _warnings(values))


def _feasible(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        raise UserError(
            f"none of the study's {len(trials)} trials is complete: run it, or look at its status"
        )
    feasible = [trial for trial in complete if is_feasible(trial)]
    if not feasible:
        raise UserError(
            f"none of the {len(complete)} complete trials keeps all constraints: look at the "
            "trials' values, and loosen sweep.constraints or widen sweep.space in a new study"
        )
    return feasible


def _complete(trials: Sequence[FrozenTrial]) -> int:
    from optuna.trial import TrialState

    return sum(trial.state == TrialState.COMPLETE for trial in trials)


def _signed(values: Sequence[float], objectives: Sequence[Objective]) -> list[float]:
    """Return values of which more is better."""
    pairs = zip(values, objectives, strict=True)
    return [value if o.direction == "maximize" else -value for value, o in pairs]


def _beats(first: Sequence[float], second: Sequence[float]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _difference(
    first: Scored, second: Scored, name: str, config: Config
) -> tuple[Difference, float]:
    """Return a difference, and the least p-value that so many prompts or seeds can give.

    That of an exact test: each prompt's difference could have had the other sign, or each seed
    could have been the other trial's. Resamples and tails know no such limit.
    """
    resamples, seed = config.evaluation.resamples, config.evaluation.seed
    one, other = (prompt_values(scored, name, config) for scored in (first, second))
    if one and other and one.names == other.names:
        found = paired_difference(
            one.of_seeds, other.of_seeds, one.benchmarks_P, resamples=resamples, seed=seed
        )
        return found, 2.0 ** (1 - len(one.names))
    sides = _seeds_alone(first, name), _seeds_alone(second, name)
    found = paired_difference(*sides, resamples=resamples, seed=seed)
    if min(map(len, sides)) > 1:
        return found, 2 / math.comb(sum(map(len, sides)), len(sides[0]))
    nothing = np.array([math.nan])
    return Difference(found.difference_K, nothing, nothing, nothing), 0.0


def _seeds_alone(scored: Scored, name: str) -> list[Array]:
    """Return each seed's value as that of one prompt, which leaves the spread of seeds alone."""
    return [np.array([[metrics[name]]]) for metrics in scored.metrics_by_seed.values()]


def _p_value(found: Difference, resamples: int, least: float) -> float:
    """Return the p-value, of the normal tail where no resample is on the other side of 0.

    The bootstrap's own is never below 2 / (resamples + 1), too much for a correction for hundreds
    of trials. None is below `least`; NaN is no test.
    """
    difference, low, high, p_value = (float(column[0]) for column in found)
    if p_value <= 2.5 / (resamples + 1) and high > low:
        deviations = abs(difference) / (high - low) * 2 * _HALF_WIDTHS
        p_value = min(p_value, math.erfc(deviations / math.sqrt(2)))
    return p_value if math.isnan(p_value) else max(p_value, least)


def _bounds(found: Difference) -> tuple[float, float, float]:
    difference, low, high, _ = (float(column[0]) for column in found)
    return difference, low, high


def _apart(p_holm: float) -> bool | None:
    return None if math.isnan(p_holm) else bool(p_holm < LEVEL)


def _in_words(value: TrialValue) -> str:
    parts = [f"{value.metric} {value.value:.4g}{_interval_in_words(value)}"]
    if value.n_prompts:
        parts.append(f"{value.n_prompts} prompts, {value.n_samples} samples of each")
    parts.append(f"{value.seeds} seed{'s' if value.seeds > 1 else ''}")
    return ", ".join(parts)


def _interval_in_words(value: TrialValue) -> str:
    if math.isnan(value.low):
        return ""
    over = value.over if value.over == SPREAD else f"95% over {value.over}"
    return f" ({over}: {value.low:.4g} to {value.high:.4g})"


def _told_apart(compared: Sequence[Comparison]) -> list[str]:
    """Say of the others which cannot be told apart from the best, are worse, or are untested."""
    said = []
    alike = [c.trial for c in compared if c.apart is False]
    worse = [c.trial for c in compared if c.apart]
    untested = [c.trial for c in compared if c.apart is None]
    if alike:
        said.append(f"{_trials(alike)} cannot be told apart from it")
    if worse:
        verb = "are" if len(worse) > 1 else "is"
        said.append(f"{_trials(worse)} {verb} worse (Holm-corrected p below {LEVEL:g})")
    if untested:
        said.append(f"nothing tells {_trials(untested)} from it: that needs two seeds of each")
    return said


def _neighbours(pair: tuple[int, int], compared: Sequence[Comparison]) -> str:
    of_pair = [c for c in compared if (c.trial, c.other) == pair]
    apart = [c.metric for c in of_pair if c.apart]
    alike = [c.metric for c in of_pair if c.apart is False]
    untested = [c.metric for c in of_pair if c.apart is None]
    parts = [f"can be told apart in {' and '.join(apart)}"] if apart else []
    parts += [f"cannot be told apart in {' and '.join(alike)}"] if alike else []
    parts += [f"need two seeds to be compared in {' and '.join(untested)}"] if untested else []
    return f"trials {pair[0]} and {pair[1]} {' and '.join(parts)}"


def _trials(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {_listed(sorted(numbers))}"


def _listed(numbers: Sequence[int]) -> str:
    texts = [str(number) for number in numbers]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _warnings(values: Sequence[TrialValue]) -> list[str]:
    fewest = min(value.seeds for value in values)
    if fewest == 1:
        return ["a trial has one seed: how much seeds of training differ is in no interval"]
    if fewest < FEW_SEEDS:
        return [
            f"a trial has {fewest} seeds: where seeds differ more than prompts do, intervals and "
            f"p-values of fewer than {FEW_SEEDS} seeds are too narrow and too small"
        ]
    return []
