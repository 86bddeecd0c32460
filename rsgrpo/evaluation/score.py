"""From graded completions to pass@k rows: the stage `score` and the verb `rsgrpo passk`."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsgrpo.config import Config, EvaluationConfig
from rsgrpo.errors import UserError
from rsgrpo.evaluation.graded import graded_batches
from rsgrpo.evaluation.passk import (
    Counts,
    mean_pass_at_k,
    pass_at_k,
    prompt_interval,
    sampling_interval,
)
from rsgrpo.evaluation.prompts import ExpressionTask, GradedSample, PromptScore, score_prompt
from rsgrpo.evaluation.resampling import benchmark_views
from rsgrpo.records import PassKRow

_FIGURES = ("pass_at_k", "low", "high", "sampling_low", "sampling_high")
_ANONYMOUS = {"policy": "", "method": "", "risk_beta": None, "seed": 0}
_COLUMNS_OF_PASSK = ("benchmark", "problem_id", "correct")
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


def passk_file(
    graded: Path,
    ks: Sequence[int] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return pass@k of a graded Parquet file, for the verb `rsgrpo passk`.

    Args:
        graded: File with at least the columns benchmark, problem_id and correct.
        ks: The values of k; None: powers of two up to the smallest number of samples.
        resamples: Bootstrap draws of both intervals.
        seed: Seed of the draws.

    Returns:
        Rows `{benchmark, k, pass_at_k, low, high, sampling_low, sampling_high, n_samples,
        n_prompts, warnings}`; figures are None where a prompt has fewer than k samples, and
        `warnings` says so, as it does for k above n/4.

    Raises:
        UserError: The file is missing, no Parquet, empty or without a needed column, or a k is
            not positive or above every n.
    """
    benchmarks_P, correct_P, n_P = _counts_of_file(graded)
    ks = powers_of_two(min(n_P)) if ks is None else _usable_ks(ks, max(n_P))
    rows = passk_rows(
        benchmarks_P,
        correct_P,
        n_P,
        identity=_ANONYMOUS,
        ks=ks,
        resamples=resamples,
        seed=seed,
    )
    return [_public(row) for row in rows]


def powers_of_two(largest: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... up to `largest`."""
    return tuple(1 << power for power in range(largest.bit_length()))


def reported_ks(settings: EvaluationConfig) -> tuple[int, ...]:
    """Return the configured values of k in order, 1 and the headline's always among them."""
    return tuple(sorted({1, settings.headline_k, *settings.ks}))


def score(config: Config, *, graded: Path, identity: Mapping[str, Any], out: Path) -> None:
    """Score one policy: write `prompts.parquet` and `passk.json` into `out`.

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
    prompts = list(_prompt_scores(graded / "graded.parquet", task))
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
    kept = [row._asdict() for row in rows if not math.isnan(row.pass_at_k)]
    out.mkdir(parents=True, exist_ok=True)
    _write_prompts(prompts, out / "prompts.parquet")
    (out / "passk.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")


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


def _public(row: PassKRow) -> dict[str, Any]:
    fields = {name: value for name, value in row._asdict().items() if name not in _ANONYMOUS}
    figures = {name: None if math.isnan(fields[name]) else fields[name] for name in _FIGURES}
    return {**fields, **figures, "warnings": _warnings(row)}


def _warnings(row: PassKRow) -> list[str]:
    where = f"{row.benchmark}, k={row.k}"
    if math.isnan(row.pass_at_k):
        return [f"{where}: not defined, a prompt has only n={row.n_samples} samples"]
    if row.k > row.n_samples / 4:
        limit = f"n/4 = {row.n_samples / 4:g}"
        return [f"{where}: k is above {limit}, so its intervals are not to be trusted"]
    return []


def _usable_ks(ks: Sequence[int], largest_n: int) -> tuple[int, ...]:
    if not ks or min(ks) < 1:
        raise UserError(f"k is {list(ks)}: give integers of at least 1, such as --k 1,2,4,8")
    if min(ks) > largest_n:
        raise UserError(
            f"k={min(ks)} is above the {largest_n} samples that a prompt has at most: choose a "
            f"smaller k or draw more samples"
        )
    return tuple(dict.fromkeys(ks))


def _expression_task() -> ExpressionTask:
    from rsgrpo.data import countdown

    return ExpressionTask(countdown.canonical_tree, countdown.solutions)


def _counts_of_file(graded: Path) -> tuple[list[str], list[int], list[int]]:
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for batch in graded_batches(graded, _COLUMNS_OF_PASSK):
        for row in batch.to_pylist():
            count = counts[row["benchmark"], row["problem_id"]]
            count[0] += row["correct"]
            count[1] += 1
    benchmarks = [benchmark for benchmark, _ in counts]
    return benchmarks, [c for c, _ in counts.values()], [n for _, n in counts.values()]


def _prompt_scores(graded: Path, task: ExpressionTask | None) -> Iterator[PromptScore]:
    samples: dict[tuple[str, str], list[GradedSample]] = defaultdict(list)
    problems: dict[tuple[str, str], str] = {}
    for batch in graded_batches(graded, _COLUMNS_OF_SCORE):
        for row in batch.to_pylist():
            key = (row["benchmark"], row["problem_id"])
            problems.setdefault(key, row["problem"])
            samples[key].append(_graded_sample(row))
    for key, drawn in samples.items():
        _refuse_doubles(graded, key[1], drawn)
        yield score_prompt(*key, problems[key], drawn, task)


def _graded_sample(row: Mapping[str, Any]) -> GradedSample:
    # A wrong completion's text counts nowhere: dropping it keeps long reasoning out of memory.
    completion = row["completion"] if row["correct"] else ""
    return GradedSample(row["sample_index"], completion, row["extracted"] or "", row["correct"])


def _refuse_doubles(graded: Path, problem_id: str, samples: Sequence[GradedSample]) -> None:
    if len({sample.sample_index for sample in samples}) < len(samples):
        raise UserError(
            f"{graded} holds a sample of problem {problem_id} twice: grade each sample once"
        )


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
