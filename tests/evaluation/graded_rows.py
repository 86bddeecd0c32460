"""Graded files as tests write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def samples(benchmark: str, problem: str, answers: str, first: int = 0) -> list[dict[str, Any]]:
    """One row for each letter: `c` is correct, `-` no answer, any other a wrong one."""
    return [
        {
            "benchmark": benchmark,
            "problem_id": problem,
            "sample_index": first + index,
            "extracted": "" if letter == "-" else letter,
            "verdict": {"c": "correct", "-": "no_answer"}.get(letter, "incorrect"),
            "correct": letter == "c",
        }
        for index, letter in enumerate(answers)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as Parquet and return the path."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
