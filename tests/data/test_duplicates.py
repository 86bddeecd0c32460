"""Rows with the same text."""

from __future__ import annotations

from pathlib import Path

from rsgrpo.data.duplicates import drop_duplicates
from rsgrpo.data.jsonl import read_problems
from rsgrpo.records import Problem


def test_the_first_of_equal_rows_stays_and_rows_that_disagree_go() -> None:
    rows = [
        Problem("a", "1 + 1?", "2"),
        Problem("b", "2 + 2?", "4"),
        Problem("c", "1 + 1?", "2"),
        Problem("d", "3 + 3?", "6"),
        Problem("e", "3 + 3?", "7"),
        Problem("f", "3 + 3?", "6"),
    ]
    found = drop_duplicates(rows)
    assert [row.id for row in found.kept] == ["a", "b"]
    assert found.duplicates == ["c"]
    assert [[row.id for row in group] for group in found.conflicts] == [["d", "e", "f"]]


def test_a_sign_makes_another_problem() -> None:
    rows = [Problem("a", "Compute $2n - 1$.", "3/4"), Problem("b", "Compute $2n + 1$.", "5/4")]
    assert drop_duplicates(rows).kept == rows


def test_dapo_has_17290_texts_of_which_11_have_several_answers(shared_data: Path) -> None:
    found = drop_duplicates(read_problems(shared_data / "benchmarks" / "dapo17k.jsonl"))
    assert len(found.kept) + len(found.conflicts) == 17_290
    assert len(found.conflicts) == 11
    assert sum(len(group) for group in found.conflicts) == 22
    assert len(found.duplicates) == 17_917 - 17_290 - 11
