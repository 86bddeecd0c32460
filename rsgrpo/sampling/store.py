"""Parquet parts: the unit of sampling that is complete or drawn again whole.

A part is a rectangle: some problems of a benchmark times a block of sample indices. Blocks begin at
multiples of a power of two, so that more samples only add parts. A part's random stream is seeded
by the run's seed and by what it covers alone: a run that was killed draws exactly what was missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rsgrpo.config import SamplingConfig
from rsgrpo.errors import UserError, unknown
from rsgrpo.records import Problem, Sample

SETTINGS = "settings.json"
SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("logprob", pa.float64()),
        pa.field("mean_entropy", pa.float64()),
    ]
)


class Part(NamedTuple):
    """The draws `start` to `stop` - 1 of some problems, with the seed of their random stream."""

    benchmark: str
    chunk: int
    start: int
    stop: int
    seed: int
    problems: tuple[Problem, ...]

    @property
    def draws(self) -> tuple[tuple[Problem, int], ...]:
        """Every (problem, sample index): all indices of the first problem first."""
        return tuple((p, index) for p in self.problems for index in range(self.start, self.stop))

    @property
    def size(self) -> int:
        """How many draws that are."""
        return len(self.problems) * (self.stop - self.start)

    def path(self, out: Path) -> Path:
        """Return the part's file below `out`."""
        return out / self.benchmark / Span(self.chunk, self.start, self.stop).file_name


class Span(NamedTuple):
    """What a file covers of its benchmark: a chunk of problems, indices `start` to `stop` - 1."""

    chunk: int
    start: int
    stop: int

    @property
    def file_name(self) -> str:
        """The name of the file that covers it."""
        return f"part-{self.chunk:04d}-{self.start:05d}-{self.stop:05d}.parquet"


def samples_of(settings: SamplingConfig, benchmarks: Sequence[str]) -> dict[str, int]:
    """Return how many samples are drawn for each problem of each benchmark.

    Raises:
        UserError: `n_of` names a benchmark that is not among them.
    """
    for name in settings.n_of:
        if name not in benchmarks:
            raise UserError(f"sampling.n_of: {unknown('benchmark', name, list(benchmarks))}")
    return {name: settings.n_of.get(name, settings.n) for name in benchmarks}


def chunks_of(problems: Sequence[Problem], batch_size: int) -> list[tuple[Problem, ...]]:
    """Cut problems, the shortest first, into chunks of which none is larger than a batch."""
    ordered = sorted(problems, key=lambda problem: (len(problem.problem), problem.id))
    return [
        tuple(ordered[start : start + batch_size]) for start in range(0, len(ordered), batch_size)
    ]


def plan_parts(
    benchmarks: Mapping[str, Sequence[Problem]],
    n: Mapping[str, int],
    batch_size: int,
    seed: int,
    out: Path | None = None,
) -> list[Part]:
    """Return the parts that `out` lacks to hold samples 0 to n - 1 of every problem.

    Args:
        benchmarks: The problems of each benchmark, by name.
        n: Samples of each problem, by benchmark.
        batch_size: The most draws that a part has.
        seed: The run's seed.
        out: Folder of finished parts, which count by their names; None for none.

    Raises:
        UserError: Two files cover the same draws, or a file has no name of a part.
    """
    parts = []
    for benchmark, problems in benchmarks.items():
        covered = spans_in(out / benchmark) if out else []
        for chunk, chosen in enumerate(chunks_of(problems, batch_size)):
            done = [span for span in covered if span.chunk == chunk]
            for start, stop in _missing(done, n[benchmark], _block(batch_size, len(chosen))):
                drawn_with = _part_seed(seed, benchmark, chunk, start, stop)
                parts.append(Part(benchmark, chunk, start, stop, drawn_with, chosen))
    return parts


def _block(batch_size: int, problems: int) -> int:
    """Return the largest power of two of sample indices that fits a batch: at least 1."""
    return 1 << (max(1, batch_size // problems).bit_length() - 1)


def _missing(done: Iterable[Span], n: int, block: int) -> Iterator[tuple[int, int]]:
    """Yield what is not done of 0 to n - 1, cut at the multiples of `block`."""
    ends = [(span.start, span.stop) for span in done if span.start < n]
    position = 0
    for begin, end in [*ends, (n, n)]:
        while position < begin:
            stop = min(begin, (position // block + 1) * block)
            yield position, stop
            position = stop
        position = max(position, end)


def spans_in(folder: Path) -> list[Span]:
    """Return what the finished parts of one benchmark's folder cover, in order.

    Raises:
        UserError: Two files cover the same draws, or a file has no name of a part.
    """
    spans = sorted(map(_span, folder.glob("part-*.parquet")))
    for one, other in pairwise(spans):
        if overlap(one, other):
            raise UserError(
                f"{folder} holds sample {other.start} twice, in {one.file_name} and "
                f"{other.file_name}: remove one of the two files"
            )
    return spans


def overlap(one: Span, other: Span) -> bool:
    """Return whether two spans of a benchmark share a draw."""
    return one.chunk == other.chunk and one.start < other.stop and other.start < one.stop


def _span(file: Path) -> Span:
    found = re.fullmatch(r"part-(\d+)-(\d+)-(\d+)\.parquet", file.name)
    span = Span(*map(int, found.groups())) if found else Span(0, 0, 0)
    if span.start >= span.stop:
        raise UserError(
            f"{file} is no part of samples (part-CHUNK-START-STOP.parquet): remove it, or choose "
            "another folder"
        )
    return span


def write_part(path: Path, samples: Iterable[Sample]) -> None:
    """Write one part: whole, or not at all."""
    rows = list(samples)
    columns = [
        pa.array(column, type=field.type)
        for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), partial)
    os.replace(partial, path)


def read_parts(folder: Path) -> Iterator[tuple[str, Sample]]:
    """Yield `(benchmark, sample)` part by part, in a fixed order.

    Where `settings.json` says how many samples a benchmark was last asked for, the others that lie
    there (drawn earlier, for more) are left out.

    Raises:
        UserError: Two files cover the same draws, a part cannot be read, or a file has no name of
            a part.
    """
    asked = asked_samples(folder)
    for benchmark in sorted({file.parent for file in folder.glob("*/part-*.parquet")}):
        n = asked.get(benchmark.name)
        for span in spans_in(benchmark):
            for row in _rows(benchmark / span.file_name):
                if n is None or row["sample_index"] < n:
                    yield benchmark.name, Sample(**row)


def asked_samples(folder: Path) -> dict[str, int]:
    """Return how many samples of each problem a folder was last asked for, by benchmark.

    Raises:
        UserError: As in `read_settings`.
    """
    asked: dict[str, int] = (read_settings(folder) or {}).get("n", {})
    return asked


def rows_in(folder: Path) -> int:
    """Return how many samples lie in a folder of parts.

    Raises:
        UserError: A part cannot be read.
    """
    count = 0
    for file in folder.glob("*/part-*.parquet"):
        with _named(file):
            count += pq.read_metadata(file).num_rows
    return count


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Return the record of what a folder's samples were drawn with; None where there is none.

    Raises:
        UserError: It is damaged.
    """
    file = folder / SETTINGS
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        raise UserError(
            f"{file} does not tell what its samples were drawn with: choose another folder"
        )
    return found


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from writing parts into a folder while the body runs.

    Raises:
        UserError: One is writing already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise UserError(
            f"another process draws samples into {folder}: wait for its end, then run the same "
            "command again"
        ) from None
    except OSError:  # a disk without locks
        pass
    try:
        yield
    finally:
        os.close(held)


def _rows(file: Path) -> list[dict[str, Any]]:
    with _named(file):
        rows: list[dict[str, Any]] = pq.read_table(file, schema=SCHEMA).to_pylist()
    return rows


@contextmanager
def _named(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as fault:
        reason = str(fault).splitlines()[0]
        raise UserError(
            f"{file} is no part of samples ({reason}): remove it, and it is drawn again"
        ) from None


def _part_seed(seed: int, benchmark: str, chunk: int, start: int, stop: int) -> int:
    text = f"{seed}/{benchmark}/{chunk}/{start}/{stop}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
