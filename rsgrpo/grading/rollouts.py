"""Reading completions made elsewhere, a few thousand at a time, every fault named with its row."""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rsgrpo.data.jsonl import read_rows
from rsgrpo.errors import UserError, explain_os_error
from rsgrpo.records import Answer

REQUIRED = ("problem_id", "problem", "answer", "sample_index", "completion")
OPTIONAL = ("benchmark", "n_tokens", "truncated", "logprob", "mean_entropy")

# Text held at a time while a Parquet file is read.
_BATCH_BYTES = 2**25
_BATCH_ROWS = 4096

_KINDS: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


class Rollout(NamedTuple):
    """A completion to be graded; what its file does not tell is None (no benchmark: "")."""

    benchmark: str
    answer: Answer
    n_tokens: int | None
    truncated: bool | None
    logprob: float | None
    mean_entropy: float | None


def read_rollouts(path: Path, benchmark: str | None = None) -> Iterator[Rollout]:
    """Yield completions to be graded in the order of their file.

    Args:
        path: JSON lines, or Parquet where the name ends in `.parquet`; rows `{problem_id, problem,
            answer, sample_index, completion}` and, where known, `benchmark`, `n_tokens`,
            `truncated`, `logprob` and `mean_entropy`.
        benchmark: The benchmark of every row, whatever the file says; by default the row's own, or
            the stem of the file where it has none.

    Raises:
        UserError: The file cannot be read or is empty, or a row lacks a value, holds one of the
            wrong kind, or has the problem_id and sample_index of another; the sentence names the
            line (the row of a Parquet file).
    """
    kind = "row" if path.suffix == ".parquet" else "line"
    rows = _parquet_rows(path) if kind == "row" else read_rows(path, REQUIRED)
    met: defaultdict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    with explained(path):
        for number, row in rows:
            where = f"file {path}, {kind} {number}"
            rollout = _rollout(row, where, benchmark, path.stem)
            index = rollout.answer.sample_index
            numbers = met[rollout.benchmark, rollout.answer.problem_id]
            first = numbers.setdefault(index, number)
            if first != number:
                raise UserError(
                    f"{where}: problem_id {rollout.answer.problem_id!r} with sample_index {index} "
                    f"was met at {kind} {first} already: remove or renumber one of them"
                )
            yield rollout
    if not met:
        raise UserError(f"file {path} holds no rollout: give it rows of {{{', '.join(REQUIRED)}}}")


def count_rows(path: Path) -> int:
    """Return how many rows a file seems to hold, without reading them; 0 where that is not known.

    Raises:
        UserError: The file cannot be read.
    """
    if not path.is_file():
        return 0
    with explained(path), path.open("rb") as stream:
        if path.suffix == ".parquet":
            with _open_parquet(path, stream) as file:
                return int(file.metadata.num_rows)
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(2**20), b""))


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a fault of the system in the body into a sentence about a path."""
    try:
        yield
    except OSError as fault:
        fault.filename = path
        raise UserError(explain_os_error(fault)) from None


def _open_parquet(path: Path, stream: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Pages are read as they are needed: a row group may be as large as the file.
        return pq.ParquetFile(stream, buffer_size=2**20, pre_buffer=False)
    except pa.ArrowInvalid as fault:
        detail = " ".join(str(fault).split())
        raise UserError(f"file {path} is not valid Parquet: {detail}") from None


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"file {path} does not exist: check the path") from None
    with stream, _open_parquet(path, stream) as file:
        names = file.schema_arrow.names
        missing = [name for name in REQUIRED if name not in names]
        if missing:
            raise UserError(f"file {path} has no column {missing[0]!r}: every row needs it")
        columns = [*REQUIRED, *(name for name in OPTIONAL if name in names)]
        start = 1
        for batch in file.iter_batches(batch_size=_batch_rows(file.metadata), columns=columns):
            yield from enumerate(_python_rows(batch, path, start), start)
            start += batch.num_rows


def _batch_rows(metadata: Any) -> int:
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    size = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(size, 1)))


def _python_rows(batch: Any, path: Path, start: int) -> list[dict[str, Any]]:
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError as fault:
        if batch.num_rows > 1:
            half = batch.num_rows // 2
            first = _python_rows(batch.slice(0, half), path, start)
            return first + _python_rows(batch.slice(half), path, start + half)
        raise UserError(
            f"file {path}, row {start} holds text that is not UTF-8 at byte {fault.start}: "
            "convert it"
        ) from None


def _rollout(row: dict[str, Any], where: str, benchmark: str | None, stem: str) -> Rollout:
    sample_index = _value(row, "sample_index", (int,), where)
    if sample_index < 0:
        raise UserError(f"{where}: sample_index is {sample_index}: number the samples from 0")
    truncated = _optional(row, "truncated", (bool,), where)
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
    return Rollout(
        benchmark or _clean(_optional(row, "benchmark", (str,), where) or stem),
        answer,
        _optional(row, "n_tokens", (int,), where),
        truncated,
        _optional(row, "logprob", (float, int), where),
        _optional(row, "mean_entropy", (float, int), where),
    )


def _value(row: dict[str, Any], key: str, kinds: tuple[type, ...], where: str) -> Any:
    value = row[key]
    if value is None:
        raise UserError(f"{where} has no {key!r}: every row needs it")
    if type(value) not in kinds or not _fits(value):
        kind = " or ".join(_KINDS[kind] for kind in kinds)
        raise UserError(f"{where}: {key} is {reprlib.repr(value)}: make it {kind}")
    return value


def _optional(row: dict[str, Any], key: str, kinds: tuple[type, ...], where: str) -> Any:
    return None if row.get(key) is None else _value(row, key, kinds, where)


def _fits(value: object) -> bool:
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _clean(text: str) -> str:
    # JSON may hold half of a surrogate pair, which neither UTF-8 nor Parquet can.
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
