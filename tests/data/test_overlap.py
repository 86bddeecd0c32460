"""Benchmarks inside training sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsgrpo.data.jsonl import read_problems
from rsgrpo.data.overlap import (
    Overlap,
    comparable,
    count_overlaps,
    exact_overlaps,
    find_overlaps,
)
from rsgrpo.records import Problem

BENCHMARKS = ("aime24", "aime25", "hmmt_feb24", "hmmt_feb25", "cmimc25", "math500")
WORDS = [f"w{i}" for i in range(40)]


def problem(identity: str, words: list[str]) -> Problem:
    return Problem(identity, " ".join(words), "1")


def read(folder: Path, *names: str) -> dict[str, list[Problem]]:
    return {name: read_problems(folder / "benchmarks" / f"{name}.jsonl") for name in names}


def test_case_spaces_and_signs_do_not_hide_a_copy() -> None:
    assert comparable("What is $2 + 3$?") == comparable("what is 2+3") == "whatis23"


def test_a_text_in_another_script_is_compared_by_all_its_letters() -> None:
    assert comparable("已知 x = 1, 求 y 的值") == "已知x1求y的值"
    own = [Problem("a", "求 x = 1 的值吗", "1"), Problem("b", "...", "1")]
    assert not exact_overlaps(own, {"b": [Problem("c", "设 x = 1 为何数", "1"), own[1]]})


def test_near_means_half_of_all_shingles() -> None:
    bench = problem("b", WORDS)  # 28 shingles of 13 words
    half = problem("half", [*WORDS[:-9], *[f"v{i}" for i in range(9)]])  # 19 of 37 are common
    less = problem("less", [*WORDS[:-10], *[f"v{i}" for i in range(10)]])  # 18 of 38 are common
    found = find_overlaps([half, less], {"own": [bench]})
    assert found == [Overlap("half", "own", "b", "near")]


def test_an_exact_copy_is_not_counted_as_near_again() -> None:
    copy = problem("a", [word.upper() for word in WORDS])
    found = find_overlaps([copy], {"own": [problem("b", WORDS)]})
    assert found == [Overlap("a", "own", "b", "exact")]


def test_short_texts_have_no_near_copies() -> None:
    own, other = problem("a", WORDS[:12]), problem("b", [*WORDS[:11], "else"])
    assert find_overlaps([own], {"own": [other]}) == []


@pytest.mark.parametrize(
    ("train", "exact", "near"),
    [
        (
            "dapo17k",
            {"hmmt_feb24": (6, 7), "math500": (7, 8)},
            {"hmmt_feb24": (2, 2), "math500": (7, 7)},
        ),
        ("math12k", {"math500": (1, 1)}, {"math500": (15, 22)}),
        ("gsm8k_train2k", {}, {}),
    ],
)
def test_real_training_sets_hold_these_benchmark_problems(
    shared_data: Path,
    train: str,
    exact: dict[str, tuple[int, int]],
    near: dict[str, tuple[int, int]],
) -> None:
    benchmarks = read(shared_data, *BENCHMARKS)
    pairs = find_overlaps(read(shared_data, train)[train], benchmarks)
    for row in count_overlaps(pairs, benchmarks, near=True):
        assert (row.exact, row.exact_rows) == exact.get(row.benchmark, (0, 0))
        assert (row.near, row.near_rows) == near.get(row.benchmark, (0, 0))
