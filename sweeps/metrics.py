"""The names of what a sweep can seek, bound and show, and which of them a config will have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rsgrpo.config import Config
from rsgrpo.errors import UserError, unknown
from rsgrpo.evaluation.score import reported_ks
from sweeps.config import SweepConfig

TRAINING = "training/"
AUC = "auc"
_SCORED = re.compile(r"(?:([\w.-]+)/)?(?:(pass|maj|avg)_at_([1-9]\d*|n)|auc)")


class Metric(NamedTuple):
    """A metric's name taken apart.

    `kind` is pass, maj, avg, auc or training; `benchmark` is None for the mean over all, `k` for
    those that have none.
    """

    name: str
    kind: str
    benchmark: str | None = None
    k: int | None = None


def parse_metric(name: str) -> Metric:
    """Take a metric's name apart.

    Args:
        name: `pass_at_8`, `maj_at_8`, `avg_at_n` or `auc` for the mean over the benchmarks,
            `aime24/pass_at_8` for one of them, `training/entropy` for what training logged last.

    Raises:
        UserError: It is no such name.
    """
    if name.startswith(TRAINING) and len(name) > len(TRAINING):
        return Metric(name, "training")
    match = _SCORED.fullmatch(name)
    if not match or (match[2] == "avg") != (match[3] == "n"):
        raise UserError(
            f"metric {name!r} is none: write pass_at_K, maj_at_K, avg_at_n, auc, the same after "
            "BENCHMARK/, or training/NAME"
        )
    benchmark = None if match[1] == "mean" else match[1]
    k = int(match[3]) if match[3] and match[3] != "n" else None
    return Metric(name, match[2] or AUC, benchmark, k)


def known_metrics(config: Config) -> list[str]:
    """Return the metrics that the evaluation of a config will have, those of the mean first."""
    samples = _samples_of(config)
    names = list(_metrics_of("", list(samples.values()), config))
    if len(samples) > 1:
        names += [f"mean/{name}" for name in names]
        names += _of_fewer(list(samples.values()), config)
        for benchmark, n in samples.items():
            names += _metrics_of(f"{benchmark}/", [n], config)
    return names or [f"{benchmark}/avg_at_n" for benchmark in samples]


def check_metrics(sweep: SweepConfig, config: Config) -> None:
    """Refuse objectives and constraints that no trial could ever have, before anything runs.

    What training will log is not known before it runs: a misspelled `training/NAME` is refused
    when the first seed is done.

    Args:
        sweep: Names the metrics.
        config: Its evaluation and samples decide which there are.

    Raises:
        UserError: A metric is unknown, or needs more samples than there are.
    """
    known = known_metrics(config)
    for objective in sweep.objectives:
        _check(f"sweep.objectives: {objective.metric}", objective.metric, known, config)
    for bound in sweep.constraints:
        _check(f"sweep.constraints: {bound.metric}", bound.metric, known, config)


def auc_ks(config: Config, n: int | None = None) -> tuple[int, ...]:
    """Return the values of k that the area under pass@k is over, up to n where it is given."""
    return tuple(sorted(k for k in set(config.evaluation.ks) if n is None or k <= n))


def _check(where: str, name: str, known: Sequence[str], config: Config) -> None:
    metric = parse_metric(name)
    if metric.kind == "training" or name in known:
        return
    fewest = min(_samples_of(config).values())
    if metric.k and metric.k not in reported_ks(config.evaluation):
        ks = ", ".join(map(str, reported_ks(config.evaluation)))
        raise UserError(f"{where} needs k = {metric.k} among evaluation.ks ({ks}): add it")
    if metric.k and metric.benchmark is None and metric.k > fewest:
        raise UserError(
            f"{where} needs {metric.k} samples of each prompt and there are {fewest}: raise "
            "sampling.n or choose a smaller k"
        )
    raise UserError(f"{where}: {unknown('metric', name, known)}")


def _samples_of(config: Config) -> dict[str, int]:
    """Return how many samples a prompt of each evaluated benchmark will have."""
    sampling = config.sampling
    names = sampling.benchmarks or tuple(config.data.benchmarks) or _tiers()
    return {name: sampling.n_of.get(name, sampling.n) for name in names}


def _tiers() -> tuple[str, ...]:
    from rsgrpo.data.countdown import TIERS

    return tuple(TIERS)


def _metrics_of(prefix: str, samples: Sequence[int], config: Config) -> Iterator[str]:
    n = min(samples)
    for statistic in ("pass", "maj"):
        for k in reported_ks(config.evaluation):
            if k <= n:
                yield f"{prefix}{statistic}_at_{k}"
    yield f"{prefix}avg_at_n"
    if len(auc_ks(config, n)) > 1:
        yield f"{prefix}{AUC}"


def _of_fewer(samples: Sequence[int], config: Config) -> Iterator[str]:
    """Yield the means over those benchmarks that have enough samples, as scores name them."""
    for k in reported_ks(config.evaluation):
        enough = sum(n >= k for n in samples)
        if 2 <= enough < len(samples):
            yield from (f"mean_of_{enough}/{statistic}_at_{k}" for statistic in ("pass", "maj"))
