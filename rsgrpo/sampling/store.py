"""Parquet parts: the unit of sampling that is complete or drawn again whole.

A part is a fixed list of (problem, sample index), seeded by the run's seed, the benchmark and the
part's number alone, so that a run that was killed draws exactly what was missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rsgrpo.config import SamplingConfig
from rsgrpo.errors import UserError, unknown
from rsgrpo.records import Problem, Sample

SCHEMA = pa.schema(
    {
        "problem_id": pa.string(),
        "sample_index": pa.int32(),
        "completion": pa.string(),
        "n_tokens": pa.int32(),
        "truncated": pa.bool_(),
    }
)


class Part(NamedTuple):
    """A fixed list of draws of one benchmark, with the seed of its random stream."""

    benchmark: str
    number: int
    seed: int
    draws: tuple[tuple[Problem, int], ...]

    def path(self, out: Path) -> Path:
        """Return the part's file below `out`."""
        return out / self.benchmark / f"part-{self.number:05d}.parquet"


def samples_of(settings: SamplingConfig, benchmarks: Sequence[str]) -> dict[str, int]:
    """Return how many samples are drawn for each problem of each benchmark.

    Raises:
        UserError: `n_of` names a benchmark that is not among them.
    """
    for name in settings.n_of:
        if name not in benchmarks:
            raise UserError(f"sampling.n_of: {unknown('benchmark', name, list(benchmarks))}")
    return {name: settings.n_of.get(name, settings.n) for name in benchmarks}


def plan_parts(
    benchmarks: Mapping[str, Sequence[Problem]],
    n: Mapping[str, int],
    batch_size: int,
    seed: int,
) -> list[Part]:
    """Cut each benchmark's `n` samples of every problem into parts of `batch_size` draws."""
    parts = []
    for benchmark, problems in benchmarks.items():
        draws = [(problem, index) for problem in problems for index in range(n[benchmark])]
        for number, start in enumerate(range(0, len(draws), batch_size)):
            chosen = tuple(draws[start : start + batch_size])
            parts.append(Part(benchmark, number, _part_seed(seed, benchmark, number), chosen))
    return parts


def bind_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Record the settings that change draws; refuse to mix with parts drawn under others.

    Raises:
        UserError: Parts drawn under other settings lie in `out`; the sentence names a difference.
    """
    file = out / "settings.json"
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        changed = [key for key in settings if stored.get(key) != settings[key]]
        if changed:
            key = changed[0]
            raise UserError(
                f"{out} holds samples drawn with {key} = {stored.get(key)!r}, not "
                f"{settings[key]!r}: choose another folder, or set it back"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(dict(settings), indent=1), encoding="utf-8")
    partial.replace(file)


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
    """Yield `(benchmark, sample)` for every finished part below a folder, in a fixed order."""
    for file in sorted(folder.glob("*/part-*.parquet")):
        for row in pq.read_table(file, schema=SCHEMA).to_pylist():
            yield file.parent.name, Sample(**row)


def _part_seed(seed: int, benchmark: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed}/{benchmark}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
