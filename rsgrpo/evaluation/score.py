"""From graded completions to rows of pass@k: the stage `score`."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsgrpo.config import Config, EvaluationConfig
from rsgrpo.evaluation.answers import answer_class, digest_of_long, read_answers
from rsgrpo.evaluation.graded import GRADED, graded_batches
from rsgrpo.evaluation.passk import (
    Counts,
    mean_pass_at_k,
    pass_at_k,
    prompt_interval,
    sampling_interval,
)
from rsgrpo.evaluation.prompts import ExpressionTask, GradedSample, PromptScore, score_prompt
from rsgrpo.evaluation.resampling import benchmark_views
from rsgrpo.evaluation.statistics import statistic_rows
from rsgrpo.records import PassKRow

STATISTICS = "statistics.json"
# Stands for every correct answer of a prompt; a model's own text is never this.
_CORRECT = "\0correct"
_FIGURES = ("pass_at_k", "low", "high", "sampling_low", "sampling_high")
_COLUMNS_OF_SCORE = (
    "benchmark",
    "problem_id",
    "problem",
    "sample_index",
    "completion",
    "extracted",
    "correct",
)


def passk_rows(
    benchmarks_P: Sequence[str],
    correct_P: Counts,
    n_P: Counts,
    *,
    identity: Mapping[str, Any],
    ks: Sequence[int],
    resamples: int = 2000,
    seed: int = 0,
) -> list[PassKRow]:
    """Return one row for each benchmark and k, then those of their uniform mean.

    Args:
        benchmarks_P: The benchmark of each prompt; "mean" is added where there are two or more.
        correct_P: Correct samples of each prompt.
        n_P: Samples of each prompt.
        identity: `policy`, `method`, `risk_beta` and `seed` of the rows.
        ks: The values of k. Where a prompt has fewer than k samples the row's figures are NaN.
        resamples: Bootstrap draws of both intervals.
        seed: Seed of the draws.

    Raises:
        ValueError: As for `pass_at_k`.
    """
    names_P, c_P, sizes_P = np.asarray(benchmarks_P, str), np.asarray(correct_P), np.asarray(n_P)
    rows: list[PassKRow] = []
    for benchmark, chosen in benchmark_views(benchmarks_P):
        counts = (c_P[chosen], sizes_P[chosen])
        rows += _rows_of(benchmark, names_P[chosen], *counts, identity, ks, resamples, seed)
    return rows


def reported_ks(settings: EvaluationConfig) -> tuple[int, ...]:
    """Return the configured values of k in order, 1 and the headline's always among them."""
    return tuple(sorted({1, settings.headline_k, *settings.ks}))


def score(config: Config, *, graded: Path, identity: Mapping[str, Any], out: Path) -> None:
    """Score one policy: write `prompts.parquet`, `passk.json` and `statistics.json` into `out`.

    `passk.json` holds pass@k alone, `statistics.json` also avg@n and maj@k and means over fewer
    benchmarks than all, as `StatisticRow` with the policy's identity.

    Args:
        config: Its evaluation branch says which k (1 and the headline's are always among them) and
            how many resamples; a k above the number of samples is left out. With the Countdown
            verifier, solutions are also counted as expression trees and against their true
            denominators.
        graded: The grade stage's folder, holding `graded.parquet`.
        identity: `policy`, `method`, `risk_beta` and `seed` of the policy.
        out: Folder to write into.

    Raises:
        UserError: The graded file is missing, empty or without a needed column, or holds a sample
            twice.
    """
    task = _expression_task() if config.grading.verifier == "countdown" else None
    answers = read_answers([graded / GRADED])
    prompts = list(_prompt_scores(graded / GRADED, task))
    settings = config.evaluation
    rows = passk_rows(
        [prompt.benchmark for prompt in prompts],
        [prompt.c for prompt in prompts],
        [prompt.n for prompt in prompts],
        identity=identity,
        ks=reported_ks(settings),
        resamples=settings.resamples,
        seed=settings.seed,
    )
    ks, resamples = reported_ks(settings), settings.resamples
    statistics = statistic_rows(answers, ks, resamples=resamples, seed=settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    _write_prompts(prompts, out / "prompts.parquet")
    kept = [row._asdict() for row in rows if not math.isnan(row.pass_at_k)]
    _write_rows(kept, out / "passk.json")
    known = [{**identity, **row._asdict()} for row in statistics if not math.isnan(row.value)]
    _write_rows(known, out / STATISTICS)


def read_prompts(path: Path) -> list[PromptScore]:
    """Return the rows of a `prompts.parquet`.

    Raises:
        UserError: The file is missing, no Parquet, empty or without a needed column.
    """
    rows = [row for batch in graded_batches(path, PromptScore._fields) for row in batch.to_pylist()]
    return [PromptScore(**row) for row in rows]


def _rows_of(
    benchmark: str,
    names_P: Any,
    c_P: Any,
    n_P: Any,
    identity: Mapping[str, Any],
    ks: Sequence[int],
    resamples: int,
    seed: int,
) -> list[PassKRow]:
    passk_PK = pass_at_k(c_P, n_P, ks)
    over_prompts = prompt_interval(passk_PK, names_P, resamples=resamples, seed=seed)
    over_samples = sampling_interval(c_P, n_P, ks, names_P, resamples=resamples, seed=seed)
    columns = (mean_pass_at_k(passk_PK, names_P), *over_prompts, *over_samples)
    size = {"n_samples": int(n_P.min()), "n_prompts": len(n_P)}
    fields: dict[str, Any] = {**identity, "benchmark": benchmark, **size}
    rows = []
    for k, *figures in zip(ks, *columns, strict=True):
        fields.update(zip(_FIGURES, map(float, figures), strict=True), k=int(k))
        rows.append(PassKRow(**fields))
    return rows


def _expression_task() -> ExpressionTask:
    from rsgrpo.data import countdown

    return ExpressionTask(countdown.canonical_tree, countdown.solutions)


def _prompt_scores(graded: Path, task: ExpressionTask | None) -> Iterator[PromptScore]:
    samples: dict[tuple[str, str], list[GradedSample]] = defaultdict(list)
    problems: dict[tuple[str, str], str] = {}
    for batch in graded_batches(graded, _COLUMNS_OF_SCORE):
        for row in batch.to_pylist():
            key = (row["benchmark"], row["problem_id"])
            problems.setdefault(key, row["problem"])
            samples[key].append(_graded_sample(row, on_text=task is None))
    for key, drawn in samples.items():
        yield score_prompt(*key, problems[key], drawn, task)


def _graded_sample(row: Mapping[str, Any], on_text: bool) -> GradedSample:
    # Only a correct completion's text counts, and where nobody reads it, only what it is equal to:
    # long reasoning stays out of memory.
    completion = row["completion"].strip() if row["correct"] else ""
    extracted = row["extracted"] or ""
    if on_text:
        completion = digest_of_long(completion)
        extracted = _CORRECT if row["correct"] else answer_class(extracted)
    return GradedSample(row["sample_index"], completion, extracted, row["correct"])


def _write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _write_prompts(prompts: Sequence[PromptScore], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "benchmark": pa.string(),
        "problem_id": pa.string(),
        "correct_samples": pa.list_(pa.bool_()),
        "answer_counts": pa.list_(pa.int64()),
        "solution_counts": pa.list_(pa.int64()),
        "tree_counts": pa.list_(pa.int64()),
    }
    schema = pa.schema([(name, kinds.get(name, pa.int64())) for name in PromptScore._fields])
    pq.write_table(pa.Table.from_pylist([p._asdict() for p in prompts], schema=schema), path)
