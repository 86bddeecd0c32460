"""Counting graded files: exact counts, every bad file, and 675,840 rows in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsgrpo.errors import UserError
from rsgrpo.evaluation.answers import read_answers
from tests.evaluation.graded_rows import samples, write

SIZES = {"aime24": 30, "aime25": 30, "hmmt24": 30, "hmmt25": 30, "cmimc25": 40, "math500": 500}


def test_counts_samples_and_classes_of_answers_in_order_of_meeting(tmp_path: Path) -> None:
    rows = samples("b", "2", "cxxy-c") + samples("a", "1", "---") + samples("b", "1", "xc")
    found = read_answers([write(tmp_path / "g.parquet", rows)])
    assert found.benchmarks_P.tolist() == ["b", "a", "b"]
    assert found.problems_P.tolist() == ["2", "1", "1"]
    assert found.correct_P.tolist() == [2, 0, 1]
    assert found.n_P.tolist() == [6, 3, 2]
    assert found.votes_P is not None
    assert [votes.tolist() for votes in found.votes_P] == [[2, 2, 1], [0], [1, 1]]


def test_rows_in_any_order_and_over_many_batches_count_alike(tmp_path: Path) -> None:
    rows = [row for p in range(40) for row in samples("a", str(p), "cxyz-" * (60 + p))]
    shuffled = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]
    found = read_answers([write(tmp_path / "g.parquet", shuffled)])
    for problem, c, n, votes in zip(
        found.problems_P, found.correct_P, found.n_P, found.votes_P or [], strict=True
    ):
        times = 60 + int(problem)
        assert (c, n, votes.tolist()) == (times, 5 * times, [times] * 4)


def test_correct_answers_are_one_class_and_so_are_spellings_of_one_wrong_answer(
    tmp_path: Path,
) -> None:
    rows = samples("a", "1", "ccxxyy")
    texts = ("1/2", "0.5", " 7", "7 ", r"\dfrac{1}{3}", r"\frac{1}{3}")
    for row, text in zip(rows, texts, strict=True):
        row["extracted"] = text
    found = read_answers([write(tmp_path / "g.parquet", rows)])
    assert found.votes_P is not None and found.votes_P[0].tolist() == [2, 2, 2]


def test_long_answers_are_told_apart_though_only_a_digest_is_kept(tmp_path: Path) -> None:
    rows = samples("a", "1", "xyx")
    for row in rows:
        row["extracted"] = "9" * 100_000 + row["extracted"]
    found = read_answers([write(tmp_path / "g.parquet", rows)])
    assert found.votes_P is not None and sorted(found.votes_P[0].tolist()) == [0, 1, 2]


def test_three_columns_are_enough_and_then_there_are_no_votes(tmp_path: Path) -> None:
    rows = [{"benchmark": "a", "problem_id": 7, "correct": i == 0} for i in range(4)]
    found = read_answers([write(tmp_path / "g.parquet", rows)])
    assert (found.correct_P.tolist(), found.n_P.tolist()) == ([1], [4])
    assert found.problems_P.tolist() == ["7"]
    assert found.votes_P is None


def test_several_files_are_one_list_of_prompts(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", samples("a", "1", "cx"))
    second = write(tmp_path / "b.parquet", samples("b", "1", "xx"))
    found = read_answers([first, second])
    assert found.benchmarks_P.tolist() == ["a", "b"]
    assert read_answers([first, second], benchmarks=["b"]).correct_P.tolist() == [0]


def test_the_same_problem_in_two_files_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", samples("a", "1", "cx"))
    second = write(tmp_path / "b.parquet", samples("a", "1", "cx", first=2))
    with pytest.raises(UserError, match=r"problem 1 of a is in .*a\.parquet and again in .*b\.par"):
        read_answers([first, second])


def test_a_sample_that_is_there_twice_is_named(tmp_path: Path) -> None:
    rows = samples("a", "p1", "cxc") + samples("a", "p2", "cxc") + samples("a", "p2", "x", first=1)
    with pytest.raises(UserError, match="sample 1 of problem p2 twice"):
        read_answers([write(tmp_path / "g.parquet", rows)])


def changed(**values: object) -> list[dict[str, object]]:
    rows = samples("a", "1", "cx")
    rows[1].update(values)
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"benchmark": "a", "problem_id": "1"}], "lacks the column correct"),
        ([{"benchmark": "a", "problem_id": "1", "correct": 1}], "correct holds int64"),
        (changed(correct=None), "column correct has an empty value"),
        (changed(problem_id=None), "column problem_id has an empty value"),
        (changed(sample_index=None), "column sample_index has an empty value"),
        ([{**samples("a", "1", "c")[0], "sample_index": "x"}], "sample_index holds string"),
    ],
)
def test_a_file_with_wrong_columns_is_one_sentence(tmp_path: Path, rows, message: str) -> None:
    with pytest.raises(UserError, match=message) as fault:
        read_answers([write(tmp_path / "g.parquet", rows)])
    assert "\n" not in str(fault.value)


def test_missing_foreign_empty_and_cut_files_are_one_sentence(tmp_path: Path) -> None:
    whole = write(tmp_path / "g.parquet", samples("a", "1", "cx" * 5000))
    (tmp_path / "text.parquet").write_text("hello")
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-100])
    pq.write_table(pq.read_table(whole).slice(0, 0), tmp_path / "empty.parquet")
    spoil(whole, "extracted")
    for name, message in {
        "absent": "does not exist",
        "text": "not a Parquet file",
        "cut": "not a Parquet file",
        "empty": "holds no rows",
        "g": "is damaged",
    }.items():
        with pytest.raises(UserError, match=message) as fault:
            read_answers([tmp_path / f"{name}.parquet"])
        assert "\n" not in str(fault.value)


def test_an_unknown_benchmark_is_one_sentence(tmp_path: Path) -> None:
    file = write(tmp_path / "g.parquet", samples("aime24", "1", "cx"))
    with pytest.raises(UserError, match=r"unknown benchmark 'aime25': did you mean aime24\?"):
        read_answers([file], benchmarks=["aime25"])


def spoil(path: Path, column: str) -> None:
    """Overwrite a column's bytes, so that reading it fails."""
    group = pq.read_metadata(path).row_group(0)
    [chunk] = [
        group.column(at)
        for at in range(group.num_columns)
        if group.column(at).path_in_schema == column
    ]
    with path.open("r+b") as file:
        file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        file.write(b"\xff" * chunk.total_compressed_size)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """660 problems x 1,024 samples with completions of 16 kB, whose column cannot be read."""
    folder = tmp_path_factory.mktemp("full")
    prompts, n = sum(SIZES.values()), 1024
    rng = np.random.default_rng(0)
    right = rng.random((prompts, n)) < rng.beta(0.5, 1.5, prompts)[:, None]
    wrong = rng.zipf(1.5, prompts * n).clip(0, 300)
    names = [name for name, size in SIZES.items() for _ in range(size)]
    texts = pa.array(["x" * 16_000, "y" * 16_000])
    table = pa.table(
        {
            "benchmark": np.repeat(names, n),
            "problem_id": np.repeat([str(at) for at in range(prompts)], n),
            "sample_index": np.tile(np.arange(n), prompts),
            "completion": pa.DictionaryArray.from_arrays(
                pa.array(np.arange(prompts * n, dtype=np.int32) % 2), texts
            ),
            "extracted": np.where(right.ravel(), "42", wrong.astype(str)),
            "verdict": np.where(right.ravel(), "correct", "incorrect"),
            "correct": right.ravel(),
        }
    )
    pq.write_table(table, folder / "graded.parquet")
    spoil(folder / "graded.parquet", "completion")
    with pytest.raises((OSError, pa.ArrowException)):
        pq.read_table(folder / "graded.parquet", columns=["completion"])
    return folder


@pytest.mark.parametrize("verb", [["passk"], ["compare"]], ids=["passk", "compare"])
def test_675840_samples_are_counted_without_their_completions_in_400_mib(
    full_size: Path, verb: list[str]
) -> None:
    places = [str(full_size)] * (2 if verb == ["compare"] else 1)
    code = (
        "import re, sys\nfrom pathlib import Path\nfrom rsgrpo.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        # getrusage would name the memory of the process that this one was forked from.
        "status = Path('/proc/self/status').read_text()\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', status)[1], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *verb, *places, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    [mean] = [row for row in rows if row["benchmark"] == "mean" and row["k"] == 1024][:1]
    assert mean["n_prompts"] == 660
    assert int(done.stderr.splitlines()[-1]) < 400 * 1024
