"""The grading stages: samples, or rollouts made elsewhere, in; one verdict for each out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from rsgrpo.config import Config
from rsgrpo.data.prepare import read_benchmarks
from rsgrpo.grading.files import grade_file, grade_rows
from rsgrpo.grading.rollouts import Rollout
from rsgrpo.records import Answer, Problem, Sample
from rsgrpo.sampling.store import read_parts, rows_in

GRADED = "graded.parquet"


def grade_stage(config: Config, *, data: Path, samples: Path, out: Path) -> None:
    """Grade every sample of a policy and write `graded.parquet`.

    Args:
        config: The study; `grading` names the verifier, `sampling.split` the problems.
        data: The output folder of the prepare stage.
        samples: The output folder of the sampling stage.
        out: Where `graded.parquet` goes.

    Raises:
        UserError: The verifier needs a package that is not installed, or a file is missing.
    """
    problems = {
        (benchmark, problem.id): problem
        for benchmark, rows in read_benchmarks(data, config.sampling.split).items()
        for problem in rows
    }
    rollouts = (
        _rollout(benchmark, problems[benchmark, row.problem_id], row)
        for benchmark, row in read_parts(samples)
    )
    progress = _print_progress()
    grade_rows(rollouts, out / GRADED, config.grading, rows_in(samples), progress)


def grade_rollouts_stage(config: Config, *, rollouts: Path, out: Path) -> None:
    """Grade a file of completions made elsewhere and write `graded.parquet`.

    Args:
        config: The study; `grading` names the verifier.
        rollouts: JSON lines or Parquet, as `rsgrpo grade` reads them.
        out: Where `graded.parquet` goes.

    Raises:
        UserError: The file cannot be read, or a row is malformed; the sentence names its line.
    """
    grade_file(rollouts, out / GRADED, config.grading, progress=_print_progress())


def _rollout(benchmark: str, problem: Problem, row: Sample) -> Rollout:
    answer = Answer(
        row.problem_id,
        problem.problem,
        problem.answer,
        row.sample_index,
        row.completion,
        row.truncated,
    )
    return Rollout(benchmark, answer, row.n_tokens, row.truncated, row.logprob, row.mean_entropy)


def _print_progress() -> Callable[[int, int], None]:
    shown = [0]

    def report(done: int, total: int) -> None:
        tenth = done * 10 // max(total, 1)
        if tenth > shown[0]:
            shown[0] = tenth
            print(f"grading: {done} of {total} answers", file=sys.stderr, flush=True)

    return report
