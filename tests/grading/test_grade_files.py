"""Rollout files in, verdict files out, and the choice of the verifier."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsgrpo.config import GradingConfig
from rsgrpo.errors import UserError
from rsgrpo.grading.files import GradeSummary, grade_file, grade_rows, graded_schema
from rsgrpo.grading.grade import grade
from rsgrpo.grading.pool import GradingPool
from rsgrpo.grading.rollouts import Rollout, read_rollouts
from rsgrpo.records import Answer, Verdict

MATH = GradingConfig(verifier="math_verify")


def row(index: int = 0, **changes: Any) -> dict[str, Any]:
    base = {"problem_id": "a", "problem": "2+3?", "answer": "5", "sample_index": index}
    return {**base, "completion": r"\boxed{5}", **changes}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_real_rollouts_become_a_verdict_file(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "graded.parquet"
    rollouts = shared_data / "rollouts" / "qwen25math_cot100x8.jsonl"
    summary = grade_file(rollouts, out, MATH)
    assert summary._replace(checks=0, seconds=0.0) == GradeSummary(800, 729, 71, 0, 0, 0, 0, 0.0)
    assert 0 < summary.checks < 60
    table = pq.read_table(out)
    assert table.schema.equals(graded_schema())
    assert table.num_rows == 800
    assert set(table["benchmark"].to_pylist()) == {"qwen25math_cot100x8"}
    assert table["n_tokens"].null_count == table["truncated"].null_count == 800
    assert sum(table["correct"].to_pylist()) == 729
    assert [path.name for path in out.parent.iterdir()] == ["graded.parquet"]


def test_parquet_rollouts_keep_length_and_truncation(tmp_path: Path) -> None:
    rows = [row(0, n_tokens=7, truncated=True), row(1, n_tokens=None, truncated=None)]
    path = tmp_path / "rollouts.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert [rollout.answer.truncated for rollout in read_rollouts(path)] == [True, False]
    grade_file(path, tmp_path / "out.parquet", MATH, benchmark="mine")
    (first, second) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert (first["n_tokens"], first["truncated"]) == (7, True)
    assert (second["n_tokens"], second["truncated"]) == (None, None)
    assert first["benchmark"] == "mine"


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    line = json.dumps(row(completion="one\u2028two\x85three"), ensure_ascii=False)
    path.write_bytes(f"{line}\r\n\n".encode())
    assert next(read_rollouts(path)).answer.completion == "one\u2028two\x85three"


def test_numbers_are_taken_for_ids_and_answers(tmp_path: Path) -> None:
    (rollout,) = read_rollouts(write(tmp_path / "r.jsonl", row(problem_id=7, answer=5)))
    assert (rollout.answer.problem_id, rollout.answer.answer) == ("7", "5")


def test_half_a_surrogate_pair_is_graded_and_stored(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row(completion="\\boxed{\ud83d5}"))
    grade_file(path, tmp_path / "out.parquet", MATH)
    (stored,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert stored["extracted"] == "\ufffd5"


def fault(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        list(read_rollouts(path))
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    return sentence


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"answer": None}, "line 2 has no 'answer'"),
        ({"completion": None}, "line 2 has no 'completion'"),
        ({"answer": "  "}, "line 2 has an empty answer"),
        ({"answer": [5]}, "line 2: answer is [5]: make it a string or a whole number or a number"),
        ({"completion": 5}, "line 2: completion is 5: make it a string"),
        ({"sample_index": "1"}, "line 2: sample_index is '1': make it a whole number"),
        ({"sample_index": True}, "line 2: sample_index is True"),
        ({"sample_index": -1}, "line 2: sample_index is -1: number the samples from 0"),
        ({"sample_index": 10**30}, "line 2: sample_index is 1000"),
        ({"truncated": "no"}, "line 2: truncated is 'no': make it true or false"),
        ({"sample_index": 0}, "line 2: problem_id 'a' with sample_index 0 was met at line 1"),
    ],
)
def test_a_bad_row_is_named_by_its_line(changes: dict[str, Any], part: str, tmp_path: Path) -> None:
    assert part in fault(write(tmp_path / "r.jsonl", row(), {**row(1), **changes}))


def test_a_missing_key_a_bad_line_and_other_bytes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lacking = row()
    del lacking["problem"]
    assert "line 1 has no 'problem'" in fault(write(path, lacking))
    path.write_text(json.dumps(row()) + "\n{oops\n")
    assert "line 2 is not valid JSON" in fault(path)
    path.write_text("[1]\n")
    assert "line 1 is not a JSON object" in fault(path)
    path.write_bytes(b'{"problem": "\xff"}\n')
    assert "line 1 is not UTF-8 at byte 13 of the file" in fault(path)


def test_files_that_hold_nothing_are_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert "does not exist" in fault(path)
    path.write_text("\n\n")
    assert "holds no rollout" in fault(path)
    assert "folder" in fault(tmp_path)
    parquet = tmp_path / "r.parquet"
    assert "does not exist" in fault(parquet)
    parquet.write_bytes(b"PAR1 it is not")
    assert "not valid Parquet" in fault(parquet)
    pq.write_table(pa.table({"problem_id": ["a"]}), parquet)
    assert "no column 'problem'" in fault(parquet)
    pq.write_table(pa.Table.from_pylist([row(), row(1, answer=None)]), parquet)
    assert "row 2 has no 'answer'" in fault(parquet)


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row())
    with pytest.raises(UserError, match="is a folder"):
        grade_file(path, tmp_path, MATH)
    with pytest.raises(UserError, match="not a folder"):
        grade_file(path, path / "out.parquet", MATH)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    path, out = write(tmp_path / "r.jsonl", row()), tmp_path / "out.parquet"
    out.write_bytes(b"old")
    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_batch", full)
    with pytest.raises(UserError, match=r"no space is left on the disk that holds .*out\.parquet"):
        grade_file(path, out, MATH)
    assert out.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.parquet", "r.jsonl"]


def test_countdown_answers_are_graded_by_their_own_verifier() -> None:
    problem = "7 2 6 > 26 :"
    answers = [
        Answer("c", problem, "26", 0, "7 + 6 = 13 * 2 = 26"),
        Answer("c", problem, "26", 1, "7 + 6 = 13 * 2 = 27"),
        Answer("c", problem, "26", 2, "7 + 6 = 13 * 2 = 26", truncated=True),
    ]
    seen: list[tuple[int, int]] = []
    verdicts = grade(
        answers, GradingConfig(), progress=lambda done, total: seen.append((done, total))
    )
    assert [verdict.verdict for verdict in verdicts] == ["correct", "incorrect", "no_answer"]
    assert seen == [(3, 3)]


def test_a_given_pool_is_used_and_left_open() -> None:
    answers = [Answer("a", "", "1/2", 0, r"\boxed{0.5}")]
    with GradingPool() as pool:
        assert grade(answers, MATH, pool) == [Verdict("0.5", "correct", True)]
        assert grade(answers, MATH, pool) == grade(answers, MATH)
        assert pool.checks == 1


def test_rows_pass_through_without_being_held(tmp_path: Path) -> None:
    rest = "x" * 20_000

    def rollouts() -> Iterator[Rollout]:
        for index in range(20_000):
            right = "5" if index % 3 else "6"
            answer = Answer("a", "2+3?", "5", index, f"{rest}{index} \\boxed{{{right}}}")
            yield Rollout("mine", answer, None, None, -float(index), None)

    tracemalloc.start()
    summary = grade_rows(rollouts(), tmp_path / "out.parquet", MATH)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (summary.rows, summary.correct, summary.incorrect) == (20_000, 13_333, 6_667)
    assert peak < 150 * 2**20  # of 400 MB
    columns = pq.read_table(
        tmp_path / "out.parquet", columns=["sample_index", "logprob", "correct"]
    )
    assert columns.to_pydict() == {
        "sample_index": list(range(20_000)),
        "logprob": [-float(index) for index in range(20_000)],
        "correct": [bool(index % 3) for index in range(20_000)],
    }
