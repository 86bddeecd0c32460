"""Grading a file of rollouts into a file of verdicts."""

from __future__ import annotations

import os
import reprlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rsgrpo.config import GradingConfig
from rsgrpo.data.jsonl import read_rows
from rsgrpo.errors import UserError, explain_os_error
from rsgrpo.grading.grade import grade
from rsgrpo.grading.pool import GradingPool, Progress
from rsgrpo.records import Answer, Verdict

if TYPE_CHECKING:
    import pyarrow

REQUIRED = ("problem_id", "problem", "answer", "sample_index", "completion")
OPTIONAL = ("n_tokens", "truncated")

_KINDS: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


class Rollout(NamedTuple):
    """A row of a rollouts file; `n_tokens` and `truncated` are None where the file has none."""

    answer: Answer
    n_tokens: int | None
    truncated: bool | None


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


def read_rollouts(path: Path) -> list[Answer]:
    """Read completions to be graded.

    Args:
        path: JSON lines, or Parquet where the name ends in `.parquet`; rows `{problem_id, problem,
            answer, sample_index, completion}` and, where known, `n_tokens` and `truncated`.

    Raises:
        UserError: The file cannot be read or is empty, or a row lacks a value, holds one of the
            wrong kind, or has the problem_id and sample_index of another; the sentence names the
            line (the row of a Parquet file).
    """
    return [rollout.answer for rollout in _read(path)]


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
        benchmark: The name that `out` gives the rows; by default the stem of `rollouts`.
        progress: Called with (rows graded, rows) as the grading goes on.

    Raises:
        UserError: As in `read_rollouts`, or `out` cannot be written.
    """
    start = time.monotonic()
    read = _read(rollouts)
    _assert_writable(out)
    with GradingPool.from_config(config) as pool:
        verdicts = grade([rollout.answer for rollout in read], config, pool, progress)
    _write(_table(read, verdicts, benchmark or rollouts.stem), out)
    counts = Counter(verdict.verdict for verdict in verdicts)
    return GradeSummary(
        rows=len(verdicts),
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

    text, flag = pa.string(), pa.bool_()
    return pa.schema(
        [
            pa.field("benchmark", text, nullable=False),
            pa.field("problem_id", text, nullable=False),
            pa.field("problem", text, nullable=False),
            pa.field("answer", text, nullable=False),
            pa.field("sample_index", pa.int64(), nullable=False),
            pa.field("completion", text, nullable=False),
            pa.field("n_tokens", pa.int64()),
            pa.field("truncated", flag),
            pa.field("extracted", text, nullable=False),
            pa.field("verdict", text, nullable=False),
            pa.field("correct", flag, nullable=False),
        ]
    )


def _read(path: Path) -> list[Rollout]:
    met_at: dict[tuple[str, int], str] = {}
    rollouts = []
    with _explained(path):
        for place, row in _rows(path):
            rollout = _rollout(row, f"file {path}, {place}")
            key = (rollout.answer.problem_id, rollout.answer.sample_index)
            if key in met_at:
                raise UserError(
                    f"file {path}, {place}: problem_id {key[0]!r} with sample_index {key[1]} was "
                    f"met at {met_at[key]} already: remove or renumber one of them"
                )
            met_at[key] = place
            rollouts.append(rollout)
    if not rollouts:
        raise UserError(f"file {path} holds no rollout: give it rows of {{{', '.join(REQUIRED)}}}")
    return rollouts


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix == ".parquet":
        return ((f"row {number}", row) for number, row in enumerate(_parquet_rows(path), 1))
    return ((f"line {number}", row) for number, row in read_rows(path, REQUIRED))


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream:
            file = pq.ParquetFile(stream)
            names = file.schema_arrow.names
            missing = [name for name in REQUIRED if name not in names]
            if missing:
                raise UserError(f"file {path} has no column {missing[0]!r}: every row needs it")
            columns = [*REQUIRED, *(name for name in OPTIONAL if name in names)]
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as fault:
        detail = " ".join(str(fault).split())
        raise UserError(f"file {path} is not valid Parquet: {detail}") from None


def _rollout(row: dict[str, Any], where: str) -> Rollout:
    sample_index = _value(row, "sample_index", (int,), where)
    if sample_index < 0:
        raise UserError(f"{where}: sample_index is {sample_index}: number the samples from 0")
    truncated = _optional(row, "truncated", bool, where)
    answer = Answer(
        problem_id=_clean(str(_value(row, "problem_id", (str, int), where))),
        problem=_clean(_value(row, "problem", (str,), where)),
        answer=_clean(str(_value(row, "answer", (str, int, float), where))),
        sample_index=sample_index,
        completion=_clean(_value(row, "completion", (str,), where)),
        truncated=bool(truncated),
    )
    if not answer.answer.strip():
        raise UserError(f"{where} has an empty answer: give the gold answer")
    return Rollout(answer, _optional(row, "n_tokens", int, where), truncated)


def _value(row: dict[str, Any], key: str, kinds: tuple[type, ...], where: str) -> Any:
    value = row[key]
    if value is None:
        raise UserError(f"{where} has no {key!r}: every row needs it")
    if type(value) not in kinds or not _fits(value):
        kind = " or ".join(_KINDS[kind] for kind in kinds)
        raise UserError(f"{where}: {key} is {reprlib.repr(value)}: make it {kind}")
    return value


def _optional(row: dict[str, Any], key: str, kind: type, where: str) -> Any:
    return None if row.get(key) is None else _value(row, key, (kind,), where)


def _fits(value: object) -> bool:
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _clean(text: str) -> str:
    # JSON may hold half of a surrogate pair, which neither UTF-8 nor Parquet can.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _table(
    rollouts: Sequence[Rollout], verdicts: Sequence[Verdict], benchmark: str
) -> pyarrow.Table:
    import pyarrow as pa

    rows = [
        {
            "benchmark": benchmark,
            **rollout.answer._asdict(),
            "n_tokens": rollout.n_tokens,
            "truncated": rollout.truncated,
            **verdict._asdict(),
        }
        for rollout, verdict in zip(rollouts, verdicts, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=graded_schema())


def _assert_writable(path: Path) -> None:
    # Before the work, which may take hours.
    if path.is_dir():
        raise UserError(f"{path} is a folder where a file is needed: name a file")
    with _explained(path):
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        unfinished = _unfinished(path)
        unfinished.touch()
        unfinished.unlink()


def _write(table: pyarrow.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    unfinished = _unfinished(path)
    try:
        with _explained(path), unfinished.open("wb") as stream:
            pq.write_table(table, stream)
            stream.flush()
            os.fsync(stream.fileno())
        with _explained(path):
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.unfinished")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        fault.filename = path
        raise UserError(explain_os_error(fault)) from None
