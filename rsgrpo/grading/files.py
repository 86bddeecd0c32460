"""Grading rollouts into a Parquet file of verdicts, a few thousand rows at a time."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rsgrpo.config import GradingConfig
from rsgrpo.errors import UserError
from rsgrpo.grading.grade import grade
from rsgrpo.grading.pool import GradingPool
from rsgrpo.grading.rollouts import Rollout, count_rows, explained, read_rollouts
from rsgrpo.grading.sheet import Progress
from rsgrpo.records import Verdict

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 8192
_BATCH_CHARS = 2**25
# Completions hardly repeat: a dictionary of them would only be built and thrown away.
_REPEATED = ("benchmark", "problem_id", "problem", "answer", "extracted", "verdict")


class GradeSummary(NamedTuple):
    """What grading a file came to: rows of each verdict, Math-Verify checks, wall seconds."""

    rows: int
    correct: int
    incorrect: int
    no_answer: int
    timeout: int
    error: int
    checks: int
    seconds: float


def grade_file(
    rollouts: Path,
    out: Path,
    config: GradingConfig,
    benchmark: str | None = None,
    progress: Progress | None = None,
) -> GradeSummary:
    """Grade a file of rollouts and write a Parquet file with a verdict for each row.

    Args:
        rollouts: What `read_rollouts` reads.
        out: The Parquet file to write; it appears whole or not at all.
        config: The verifier and its limits.
        benchmark: The name that `out` gives the rows; by default what `rollouts` says in a column
            `benchmark`, or else its stem.
        progress: Called with (rows graded, rows) as the grading goes on.

    Raises:
        UserError: As in `read_rollouts`, or `out` cannot be written or is `rollouts`.
    """
    if out.exists() and rollouts.exists() and out.samefile(rollouts):
        raise UserError(f"{out} is the file of rollouts itself: name another file to write")
    total = count_rows(rollouts) if progress else 0
    return grade_rows(read_rollouts(rollouts, benchmark), out, config, total, progress)


def grade_rows(
    rollouts: Iterable[Rollout],
    out: Path,
    config: GradingConfig,
    total: int = 0,
    progress: Progress | None = None,
) -> GradeSummary:
    """Grade rows and write them with their verdicts, in their order.

    Args:
        rollouts: The rows; only some thousands of them are held at a time.
        out: The Parquet file to write; it appears whole or not at all.
        config: The verifier and its limits.
        total: How many rows there are, for `progress`; 0 where that is not known.
        progress: Called with (rows graded, rows) as the grading goes on.

    Raises:
        UserError: `out` cannot be written, or the verifier needs a package that is not installed.
    """
    start = time.monotonic()
    counts: Counter[str] = Counter()
    with GradingPool.from_config(config) as pool, _written(out) as write:
        for batch in _batches(rollouts):
            answers = [rollout.answer for rollout in batch]
            verdicts = grade(answers, config, pool, _shifted(progress, counts.total(), total))
            write(_record_batch(batch, verdicts))
            counts.update(verdict.verdict for verdict in verdicts)
    if progress:
        progress(counts.total(), counts.total())
    return GradeSummary(
        rows=counts.total(),
        correct=counts["correct"],
        incorrect=counts["incorrect"],
        no_answer=counts["no_answer"],
        timeout=counts["timeout"],
        error=counts["error"],
        checks=pool.checks,
        seconds=time.monotonic() - start,
    )


def graded_schema() -> pyarrow.Schema:
    """Return the columns of a file of verdicts."""
    import pyarrow as pa

    text, whole, real, flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
    return pa.schema(
        [
            pa.field("benchmark", text, nullable=False),
            pa.field("problem_id", text, nullable=False),
            pa.field("problem", text, nullable=False),
            pa.field("answer", text, nullable=False),
            pa.field("sample_index", whole, nullable=False),
            pa.field("completion", text, nullable=False),
            pa.field("n_tokens", whole),
            pa.field("truncated", flag),
            pa.field("logprob", real),
            pa.field("mean_entropy", real),
            pa.field("extracted", text, nullable=False),
            pa.field("verdict", text, nullable=False),
            pa.field("correct", flag, nullable=False),
        ]
    )


def _batches(rollouts: Iterable[Rollout]) -> Iterator[list[Rollout]]:
    batch: list[Rollout] = []
    chars = 0
    for rollout in rollouts:
        batch.append(rollout)
        chars += len(rollout.answer.completion)
        if len(batch) == _BATCH_ROWS or chars >= _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    if progress is None or not total:
        return None
    return lambda done, _: progress(min(before + done, total - 1), total)


def _record_batch(rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> Any:
    import pyarrow as pa

    rows = [
        (
            rollout.benchmark,
            rollout.answer.problem_id,
            rollout.answer.problem,
            rollout.answer.answer,
            rollout.answer.sample_index,
            rollout.answer.completion,
            *rollout[2:],
            *verdict,
        )
        for rollout, verdict in zip(rollouts, verdicts, strict=True)
    ]
    schema = graded_schema()
    columns = zip(zip(*rows, strict=True), schema, strict=True)
    arrays = [pa.array(column, type=field.type) for column, field in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


@contextmanager
def _written(path: Path) -> Iterator[Any]:
    """Give a function that adds record batches to a file, which appears when the body ends well."""
    import pyarrow.parquet as pq

    _make_room(path)
    unfinished = _unfinished(path, os.getpid())
    with explained(path):
        stream = unfinished.open("wb")
    try:
        with explained(path), stream:
            with pq.ParquetWriter(stream, graded_schema(), use_dictionary=list(_REPEATED)) as file:
                yield file.write_batch
            stream.flush()
            os.fsync(stream.fileno())
        with explained(path):
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _make_room(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder where a file is needed: name a file")
    with explained(path):
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        # What a killed run left behind.
        for left in path.parent.glob(f".{path.name}.*.unfinished"):
            if not Path("/proc", left.name.split(".")[-2]).exists():
                left.unlink(missing_ok=True)


def _unfinished(path: Path, process: int) -> Path:
    return path.with_name(f".{path.name}.{process}.unfinished")
