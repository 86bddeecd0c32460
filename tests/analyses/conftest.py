from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsgrpo.grading.files import graded_schema

Write = Callable[..., Path]
WRITTEN = (
    *("benchmark", "problem_id", "problem", "answer", "sample_index", "completion"),
    *("n_tokens", "truncated", "extracted", "verdict", "correct"),
)


@pytest.fixture
def write_graded(tmp_path: Path) -> Write:
    """Writes a graded file from `{problem_id: [(answer, verdict[, completion])]}`."""

    def write(
        name: str,
        prompts: Mapping[str, Sequence[tuple[str, ...]]],
        benchmark: str = "set",
        problem: str = "What is it?",
        **columns: Any,
    ) -> Path:
        rows = [
            {
                "benchmark": benchmark,
                "problem_id": problem_id,
                "problem": problem,
                "answer": "42",
                "sample_index": index,
                "completion": completion[0] if completion else f"so it is {answer}",
                "n_tokens": None,
                "truncated": False,
                "extracted": answer,
                "verdict": verdict,
                "correct": verdict == "correct",
            }
            for problem_id, samples in prompts.items()
            for index, (answer, verdict, *completion) in enumerate(samples)
        ]
        names = [field for field in graded_schema() if field.name in WRITTEN]
        table = pa.Table.from_pylist(rows, schema=pa.schema(names))
        for column, values in columns.items():
            table = table.append_column(column, pa.array(values))
        pq.write_table(table, tmp_path / f"{name}.parquet")
        return tmp_path / f"{name}.parquet"

    return write
