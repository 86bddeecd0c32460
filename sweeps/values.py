"""What a trial gave: the metrics of each of its seeds, and its values, means over the seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsgrpo.config import Config
from rsgrpo.errors import UserError, unknown
from rsgrpo.evaluation.resampling import MEAN, Array
from rsgrpo.evaluation.score import STATISTICS
from rsgrpo.stages import finished
from rsgrpo.study import base_policy, base_run
from rsgrpo.tracking.spool import SPOOL_NAME, read_spool
from sweeps.config import Constraint, SweepConfig
from sweeps.metrics import AUC, TRAINING, auc_ks
from sweeps.units import Unit


def unit_metrics(root: Path, unit: Unit) -> dict[str, float]:
    """Return every metric of a finished unit that is a finite number.

    Args:
        root: The folder of all stages' folders.
        unit: Its training and its score must be finished.

    Returns:
        `pass_at_K`, `maj_at_K`, `avg_at_n` and `auc` of the mean over the benchmarks, the same of
        each benchmark after `BENCHMARK/`, and `training/NAME`, what training logged last.

    Raises:
        UserError: A stage is not finished as seen from here.
    """
    run = unit.run
    assert run.training is not None
    scored = score_metrics(finished(root, run.score), unit.config)
    return scored | training_metrics(finished(root, run.training) / SPOOL_NAME)


def base_metrics(root: Path, config: Config) -> dict[str, float]:
    """Return the metrics of the base policy's finished evaluation, as in `unit_metrics`.

    Raises:
        UserError: The evaluation is not finished as seen from here.
    """
    score = base_run(config, base_policy(config)).score
    return score_metrics(finished(root, score), config)


def score_metrics(folder: Path, config: Config) -> dict[str, float]:
    """Return the metrics of a score's folder; `auc` is over those of `evaluation.ks` it has."""
    rows = json.loads((folder / STATISTICS).read_text(encoding="utf-8"))
    values = {_metric_name(row): float(row["value"]) for row in rows}
    benchmarks = list(dict.fromkeys(name.partition("/")[0] for name in values))
    for benchmark in benchmarks:
        _add_area(values, benchmark, auc_ks(config))
    mean = MEAN if MEAN in benchmarks else benchmarks[0]
    prefix = f"{mean}/"
    short = {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
    return short | values if len(benchmarks) == 1 or mean == MEAN else values


def training_metrics(spool: Path) -> dict[str, float]:
    """Return the last step's value of each metric that a training run logged, if it is finite.

    A resumed run writes steps twice: the first record of a step counts, as everywhere.
    """
    last: dict[str, tuple[int, float]] = {}
    for record in read_spool(spool):
        if record["kind"] == "metrics":
            for name, value in record["values"].items():
                if name not in last or record["step"] > last[name][0]:
                    last[name] = (record["step"], value)
    return {f"{TRAINING}{name}": v for name, (_, v) in last.items() if math.isfinite(v)}


def objective_values(
    metrics_by_seed: Mapping[int, Mapping[str, float]], sweep: SweepConfig
) -> list[float]:
    """Return a trial's value of each objective: the mean over its seeds.

    Raises:
        UserError: A seed lacks the metric.
    """
    return [mean_metric(metrics_by_seed, objective.metric) for objective in sweep.objectives]


def values_by_seed(
    metrics_by_seed: Mapping[int, Mapping[str, float]], sweep: SweepConfig
) -> dict[str, list[float]]:
    """Return each seed's value of each objective, seed in the key, for the trial's record.

    Raises:
        UserError: A seed lacks the metric.
    """
    names = [objective.metric for objective in sweep.objectives]
    return {
        str(seed): [_value(metrics, name, seed) for name in names]
        for seed, metrics in metrics_by_seed.items()
    }


def constraint_values(
    metrics_by_seed: Mapping[int, Mapping[str, float]],
    base: Mapping[str, float],
    sweep: SweepConfig,
) -> dict[str, float]:
    """Return by how much a trial's mean misses each bound: at most 0 where it keeps it.

    Args:
        metrics_by_seed: The trial's metrics.
        base: The base policy's, empty where no bound needs them.
        sweep: Names the bounds.

    Returns:
        `{"pass_at_1 at least base": shortfall}`, one for each constraint.

    Raises:
        UserError: A seed or the base policy lacks the metric.
    """
    return {
        constraint_name(bound): _shortfall(bound, mean_metric(metrics_by_seed, bound.metric), base)
        for bound in sweep.constraints
    }


def constraint_name(bound: Constraint) -> str:
    """Return how a constraint is called: `pass_at_1 at least base`."""
    if bound.at_least is not None:
        return f"{bound.metric} at least {bound.at_least}"
    return f"{bound.metric} at most {bound.at_most}"


def mean_metric(metrics_by_seed: Mapping[int, Mapping[str, float]], name: str) -> float:
    """Return the mean over seeds of one metric.

    Raises:
        UserError: There is no seed, or one lacks the metric.
    """
    if not metrics_by_seed:
        raise UserError(f"no seed has a value of {name}: run the trial first")
    values = [_value(metrics, name, seed) for seed, metrics in metrics_by_seed.items()]
    return math.fsum(values) / len(values)


def auc_weights(ks: Sequence[int]) -> Array:
    """Return weights_K of the area under a curve over log2 k, divided by its width.

    The area is the trapezoid rule's: weights sum to 1, so that a constant curve has its own value.

    Args:
        ks: At least two values of k, ascending.
    """
    at_K = np.log2(np.asarray(ks, np.float64))
    gaps = np.diff(at_K)
    weights_K = np.zeros(len(at_K))
    weights_K[:-1] += gaps / 2
    weights_K[1:] += gaps / 2
    return np.asarray(weights_K / (at_K[-1] - at_K[0]), np.float64)


def _add_area(values: dict[str, float], benchmark: str, ks: Sequence[int]) -> None:
    there = [k for k in ks if f"{benchmark}/pass_at_{k}" in values]
    if len(there) > 1:
        curve = [values[f"{benchmark}/pass_at_{k}"] for k in there]
        values[f"{benchmark}/{AUC}"] = float(auc_weights(there) @ curve)


def _metric_name(row: Mapping[str, Any]) -> str:
    """Return the name that MLflow knows a figure by: `aime24/maj_at_8`, `mean_of_5/pass_at_64`."""
    benchmark = row["benchmark"].partition(" (")[0].replace(" ", "_")
    k = "n" if row["k"] is None else row["k"]
    return f"{benchmark}/{row['metric'].partition('@')[0]}_at_{k}"


def _value(metrics: Mapping[str, float], name: str, seed: int | str) -> float:
    if name not in metrics:
        raise UserError(
            f"seed {seed} has no finite value of {name} ({unknown('metric', name, list(metrics))})"
        )
    return metrics[name]


def _shortfall(bound: Constraint, value: float, base: Mapping[str, float]) -> float:
    limit = bound.at_least if bound.at_least is not None else bound.at_most
    if limit == "base":
        if bound.metric not in base:
            known = unknown("metric", bound.metric, list(base))
            raise UserError(f"the base policy has no value of {bound.metric} ({known})")
        limit = base[bound.metric]
    assert isinstance(limit, int | float)
    return limit - value if bound.at_least is not None else value - limit
