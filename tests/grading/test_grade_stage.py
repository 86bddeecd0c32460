"""The grading stage on parts of a sampled policy."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsgrpo.config import load_config
from rsgrpo.data.jsonl import write_problems
from rsgrpo.errors import UserError
from rsgrpo.grading.files import graded_schema
from rsgrpo.grading.stage import grade_stage
from rsgrpo.records import Problem
from rsgrpo.sampling.store import SCHEMA, read_parts


def test_parts_are_graded_in_their_order_whatever_problems_they_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(None, [])
    problems = [Problem("a", "7 2 6 > 26 :", "26"), Problem("b", "1 2 3 > 6 :", "6")]
    for benchmark in ("t0", "t1"):
        write_problems(tmp_path / "data" / config.sampling.split / f"{benchmark}.jsonl", problems)
        for start in (0, 2):
            draws = [(name, index) for name in "ab" for index in (start, start + 1)]
            rows = [
                {
                    "problem_id": name,
                    "sample_index": index,
                    "completion": "7 + 6 = 13 * 2 = 26" if index else "1 + 2 = 3 + 3 = 6",
                    "n_tokens": 10 + index,
                    "truncated": index == 3,
                    "logprob": -1.5 * index,
                    "mean_entropy": 0.5,
                }
                for name, index in draws
            ]
            part = (
                tmp_path / "samples" / benchmark / f"part-0000-{start:05d}-{start + 2:05d}.parquet"
            )
            part.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), part)
    (tmp_path / "out").mkdir()
    grade_stage(config, data=tmp_path / "data", samples=tmp_path / "samples", out=tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "graded.parquet")
    assert table.schema.equals(graded_schema())
    drawn = list(read_parts(tmp_path / "samples"))
    assert len(drawn) == 16
    for (benchmark, sample), row in zip(drawn, table.to_pylist(), strict=True):
        known = sample._asdict() | {"benchmark": benchmark}
        assert known.items() <= row.items()
        right = {"a": (1, 2), "b": (0,)}[sample.problem_id]
        assert row["correct"] == (sample.sample_index in right)
    assert "grading: 16 of 16 answers" in capsys.readouterr().err
    part.write_bytes(b"")
    places = {name: tmp_path / name for name in ("data", "samples", "out")}
    with pytest.raises(UserError, match=r"part-0000-00002-00004.* remove it, and it is drawn"):
        grade_stage(config, **places)
