"""`rsgrpo grade` as a user calls it: what it prints, refuses, and leaves behind when killed."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.grading.test_grade_files import row, write

ROOT = Path(__file__).resolve().parents[2]
RSGRPO = [sys.executable, "-c", "from rsgrpo.cli import main; main()"]


def rsgrpo(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RSGRPO, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=120,
    )


def summary_of(*arguments: object) -> dict[str, Any]:
    done = rsgrpo("grade", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def fault(*arguments: object) -> str:
    done = rsgrpo("grade", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_every_verdict_is_counted_and_rows_keep_their_order(tmp_path: Path) -> None:
    texts = ["5", "10/2", "6", "9^{9^{9^9}}", "1" * 60]
    rows = [row(index, completion=f"\\boxed{{{text}}}") for index, text in enumerate(texts)]
    path = write(tmp_path / "mine.jsonl", *rows, row(5, completion="five"))
    options = ["--timeout", "1", "--workers", "2", "--max-chars", "50"]
    summary = summary_of(path, "-o", tmp_path / "out.parquet", *options)
    assert summary.pop("seconds") > 0
    assert summary == {
        "rows": 6, "correct": 2, "incorrect": 1, "no_answer": 1, "timeout": 1, "error": 1,
        "checks": 2,
    }  # fmt: skip
    graded = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["sample_index"] for row in graded] == [0, 1, 2, 3, 4, 5]
    verdicts = ["correct", "correct", "incorrect", "timeout", "error", "no_answer"]
    assert [row["verdict"] for row in graded] == verdicts
    assert [row["extracted"] for row in graded] == [*texts, ""]
    printed = rsgrpo("grade", path, "-o", tmp_path / "again.parquet", *options).stdout
    assert printed.startswith("rows 6  correct 2  incorrect 1  no_answer 1  timeout 1  error 1  ")


def test_columns_of_the_rollouts_are_passed_on(tmp_path: Path) -> None:
    known = {"n_tokens": 7, "truncated": True, "logprob": -3.5, "mean_entropy": 0.25}
    rows = [row(0, benchmark="aime24", **known), row(0, benchmark="aime25", logprob=-2), row(1)]
    path, out = write(tmp_path / "mine.jsonl", *rows), tmp_path / "out.parquet"
    summary_of(path, "-o", out)
    first, second, third = pq.read_table(out).to_pylist()
    assert known.items() <= first.items()
    assert [one["benchmark"] for one in (first, second, third)] == ["aime24", "aime25", "mine"]
    assert (second["logprob"], second["mean_entropy"], third["logprob"]) == (-2.0, None, None)
    summary_of(write(tmp_path / "one.jsonl", rows[0]), "-o", out, "--benchmark", "amc")
    assert pq.read_table(out)["benchmark"].to_pylist() == ["amc"]


def test_full_text_is_an_option(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row(completion="It is 2 + 3. A: 5"))
    out = tmp_path / "out.parquet"
    assert summary_of(path, "-o", out)["no_answer"] == 1
    assert summary_of(path, "-o", out, "--extract", "full")["correct"] == 1
    assert pq.read_table(out)["extracted"].to_pylist() == ["5"]


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    for name in ("none.jsonl", "none.parquet"):
        assert "does not exist" in fault(tmp_path / name, "-o", tmp_path / "out.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row(0), row(1), row(2))
    path.write_bytes(path.read_bytes()[:-30])
    assert "line 3 is not valid JSON" in fault(path, "-o", tmp_path / "out.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["r.jsonl"]


def test_both_lines_of_a_duplicate_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row(0), row(1), row(2), row(1))
    said = fault(path, "-o", tmp_path / "out.parquet")
    assert "line 4: problem_id 'a' with sample_index 1 was met at line 2 already" in said
    parquet = tmp_path / "r.parquet"
    pq.write_table(pa.Table.from_pylist([row(0), row(1), row(0)]), parquet)
    said = fault(parquet, "-o", tmp_path / "out.parquet")
    assert "row 3: problem_id 'a' with sample_index 0 was met at row 1 already" in said


def test_a_duplicate_across_benchmarks_is_one_only_where_they_are_one(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row(0, benchmark="x"), row(0, benchmark="y"))
    assert summary_of(path, "-o", tmp_path / "out.parquet")["rows"] == 2
    assert "met at line 1" in fault(path, "-o", tmp_path / "out.parquet", "--benchmark", "z")


def test_bytes_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row(0), row(1))
    start = len(path.read_bytes())
    path.write_bytes(path.read_bytes() + b'{"problem": "\xff"}\n')
    said = fault(path, "-o", tmp_path / "out.parquet")
    assert f"line 3 is not UTF-8 at byte {start + 13} of the file" in said


def test_parquet_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row(n) for n in range(9)])
    bad = pa.array([b"fine"] * 6 + [b"\xff"] + [b"fine"] * 2)
    text = pa.StringArray.from_buffers(9, *bad.buffers()[1:])
    position = table.schema.get_field_index("completion")
    pq.write_table(table.set_column(position, "completion", text), tmp_path / "r.parquet")
    said = fault(tmp_path / "r.parquet", "-o", tmp_path / "out.parquet")
    assert "row 7 holds text that is not UTF-8" in said


def test_an_answer_of_none_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row(0), row(1, answer=None))
    assert "line 2 has no 'answer'" in fault(path, "-o", tmp_path / "out.parquet")


def test_an_empty_file_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl")
    assert "holds no rollout" in fault(path, "-o", tmp_path / "out.parquet")
    pq.write_table(pa.Table.from_pylist([row()]).slice(1), tmp_path / "r.parquet")
    assert "holds no rollout" in fault(tmp_path / "r.parquet", "-o", tmp_path / "out.parquet")


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row(0))
    assert "is a folder" in fault(path, "-o", tmp_path)
    assert "not a folder" in fault(path, "-o", path / "out.parquet")
    assert "/proc/out.parquet" in fault(path, "-o", "/proc/out.parquet")


def test_the_rollouts_are_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row(0))
    before = path.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(path)
    for out in (path, tmp_path / "link.jsonl"):
        assert "is the file of rollouts itself" in fault(path, "-o", out)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--extract", "last", "extract"),
        ("--timeout", "0", "timeout"),
        ("--workers", "0", "workers"),
        ("--max-chars", "0", "max_chars"),
    ],
)
def test_an_option_that_is_not_allowed_is_one_sentence(
    option: str, value: str, part: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "r.jsonl", row(0))
    said = fault(path, "-o", tmp_path / "out.parquet", option, value)
    assert part in said and value in said


@pytest.mark.parametrize("line", ["[" * 100_000, '{"answer": ' + "1" * 5000 + "}"])
def test_json_that_python_cannot_hold_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(line + "\n")
    assert "line 1 " in fault(tmp_path / "r.jsonl", "-o", tmp_path / "out.parquet")


def known_to(folder: Path) -> int:
    if not (folder / "verdicts.sqlite").exists():
        return 0
    with closing(sqlite3.connect(folder / "verdicts.sqlite")) as file:
        return int(file.execute("SELECT count(*) FROM verdicts").fetchone()[0])


def test_kill_9_leaves_no_half_file_and_what_was_checked_is_not_checked_again(
    tmp_path: Path,
) -> None:
    texts = [f"{n}/{n + 1}+{n % 7}" for n in range(1, 2001)]
    rows = [row(n, answer="1/3", completion=f"\\boxed{{{text}}}") for n, text in enumerate(texts)]
    path, out = write(tmp_path / "r.jsonl", *rows), tmp_path / "out.parquet"
    folder = Path(os.environ["RSGRPO_CACHE"])
    command = [*RSGRPO, "grade", str(path), "-o", str(out)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    end = time.monotonic() + 60
    while time.monotonic() < end and not known_to(folder):
        assert process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, timeout=5)
    assert not any(member.is_running() for member in family)
    assert not out.exists()
    known = known_to(folder)
    assert 0 < known < 2000
    summary = summary_of(path, "-o", out)
    assert (summary["rows"], summary["checks"]) == (2000, 2000 - known)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.parquet", "r.jsonl"]
    assert pq.read_table(out)["extracted"].to_pylist() == texts
