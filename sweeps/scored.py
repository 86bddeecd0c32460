"""A trial's values with their uncertainty: what its seeds gave prompt by prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.evaluation.compare import method_estimate
from rsgrpo.evaluation.passk import pass_at_k
from rsgrpo.evaluation.resampling import Array
from rsgrpo.stages import find
from rsgrpo.study import base_policy, trained_run
from sweeps.metrics import AUC, Metric, auc_ks, parse_metric
from sweeps.values import auc_weights, mean_metric

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

PROMPTS = "prompts.parquet"
SPREAD = "seeds, smallest to largest"


class PromptCounts(NamedTuple):
    """A score's prompts in the order of their names: c of n samples correct."""

    names: list[tuple[str, str]]
    correct_P: npt.NDArray[np.int64]
    n_P: npt.NDArray[np.int64]


class Scored(NamedTuple):
    """A complete trial: the metrics of each seed, and its prompts where they can be read.

    `counts` holds one entry for each seed, all of the same prompts; it is None where a score's
    folder is gone or seeds were asked other prompts.
    """

    number: int
    params: dict[str, Any]
    metrics_by_seed: dict[int, dict[str, float]]
    counts: list[PromptCounts] | None


class TrialValue(NamedTuple):
    """A trial's mean of one metric over its seeds; `over` says what the interval is made of.

    Bounds are those of a 95% bootstrap over prompts and seeds, or the smallest and largest seed;
    NaN where there is one seed and nothing else. `n_samples` is the fewest of a prompt.
    """

    trial: int
    metric: str
    value: float
    low: float
    high: float
    over: str
    n_prompts: int | None
    n_samples: int | None
    seeds: int


class PromptValues(NamedTuple):
    """A metric of each prompt, values_P1 for each seed, and the benchmark of each prompt."""

    of_seeds: list[Array]
    benchmarks_P: list[str]
    names: list[tuple[str, str]]
    n_samples: int


def read_scored(root: Path, trial: FrozenTrial, config: Config) -> Scored:
    """Return what a complete trial gave.

    Args:
        root: The folder of all stages' folders.
        trial: It keeps its metrics and the folders of its scores.
        config: The study's.
    """
    kept = trial.user_attrs.get("metrics_by_seed", {})
    metrics = {int(seed): dict(values) for seed, values in kept.items()}
    folders = [_score_folder(root, trial, seed) for seed in metrics]
    counts = [read_counts(folder / PROMPTS) for folder in folders if folder]
    whole = len(counts) == len(metrics) > 0 and all(c.names == counts[0].names for c in counts)
    return Scored(trial.number, dict(trial.params), metrics, counts if whole else None)


def read_counts(path: Path) -> PromptCounts:
    """Return the prompts of a score."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["benchmark", "problem_id", "c", "n"])
    rows = sorted(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return PromptCounts(
        [(row[0], row[1]) for row in rows],
        np.array([row[2] for row in rows], np.int64),
        np.array([row[3] for row in rows], np.int64),
    )


def trial_value(scored: Scored, name: str, config: Config) -> TrialValue:
    """Return a trial's value of a metric with its interval.

    Raises:
        UserError: A seed lacks the metric.
    """
    value, seeds = mean_metric(scored.metrics_by_seed, name), len(scored.metrics_by_seed)
    found = prompt_values(scored, name, config)
    if found is None:
        of_seeds = [metrics[name] for metrics in scored.metrics_by_seed.values()]
        low, high = (min(of_seeds), max(of_seeds)) if seeds > 1 else (math.nan, math.nan)
        over = SPREAD if seeds > 1 else "nothing, one seed"
        return TrialValue(scored.number, name, value, low, high, over, None, None, seeds)
    settings = config.evaluation
    estimate = method_estimate(
        found.of_seeds, found.benchmarks_P, resamples=settings.resamples, seed=settings.seed
    )
    bounds = float(estimate.low_K[0]), float(estimate.high_K[0])
    over = "prompts and seeds" if seeds > 1 else "prompts"
    sizes = len(found.names), found.n_samples, seeds
    return TrialValue(scored.number, name, value, *bounds, over, *sizes)


def prompt_values(scored: Scored, name: str, config: Config) -> PromptValues | None:
    """Return a metric prompt by prompt; None where it has no value of single prompts.

    pass@k has one, and so have its areas over log2 k and avg@n, which are linear in it.
    """
    metric = parse_metric(name)
    if scored.counts is None or metric.kind not in ("pass", "avg", AUC):
        return None
    chosen = [
        at
        for at, (benchmark, _) in enumerate(scored.counts[0].names)
        if metric.benchmark in (None, benchmark)
    ]
    if not chosen:
        return None
    names = [scored.counts[0].names[at] for at in chosen]
    of_seeds = [_of_prompts(counts, chosen, metric, config) for counts in scored.counts]
    if any(values is None or np.isnan(values).any() for values in of_seeds):
        return None
    fewest = min(int(counts.n_P[chosen].min()) for counts in scored.counts)
    known = [values for values in of_seeds if values is not None]
    return PromptValues(known, [benchmark for benchmark, _ in names], names, fewest)


def _of_prompts(
    counts: PromptCounts, chosen: Sequence[int], metric: Metric, config: Config
) -> Array | None:
    c_P, n_P = counts.correct_P[chosen], counts.n_P[chosen]
    if metric.kind != AUC:
        return pass_at_k(c_P, n_P, [metric.k or 1])
    ks = auc_ks(config, int(n_P.min()))
    if len(ks) < 2:
        return None
    return np.asarray((pass_at_k(c_P, n_P, ks) @ auc_weights(ks))[:, None], np.float64)


def _score_folder(root: Path, trial: FrozenTrial, seed: int) -> Path | None:
    """Return where a seed's score lies: as the trial has kept it, else as it would be made now."""
    kept: Mapping[str, str] = trial.user_attrs.get("scores", {})
    if str(seed) in kept:
        folder: Path | None = root / kept[str(seed)]
    elif text := trial.user_attrs.get("config"):
        config = Config.model_validate_json(text)
        training = config.training.model_copy(update={"seed": seed})
        config = config.model_copy(update={"training": training})
        folder = _found(root, config)
    else:
        folder = None
    return folder if folder and (folder / PROMPTS).exists() else None


def _found(root: Path, config: Config) -> Path | None:
    try:
        return find(root, trained_run(config, base_policy(config)).score)
    except UserError:  # its inputs do not lie here
        return None
