"""Transitions, Wilson intervals and Fisher's exact test."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.analyses.transitions import (
    fisher_exact,
    mcnemar_exact,
    transition_table,
    transitions,
    wilson,
)
from rsgrpo.errors import UserError


def brute_fisher(a: int, n: int, b: int, m: int) -> Fraction:
    ways = {x: comb(n, x) * comb(m, a + b - x) for x in range(n + 1) if 0 <= a + b - x <= m}
    return Fraction(sum(w for w in ways.values() if w <= ways[a]), sum(ways.values()))


@given(n=st.integers(1, 40), m=st.integers(1, 40), data=st.data())
def test_fisher_agrees_with_exact_enumeration(n, m, data):
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    assert fisher_exact(a, n, b, m) == pytest.approx(float(brute_fisher(a, n, b, m)), rel=1e-9)


def test_fisher_of_the_lady_tasting_tea():
    assert fisher_exact(3, 4, 1, 4) == pytest.approx(34 / 70)


def test_fisher_at_the_demo_size():
    assert fisher_exact(0, 256, 5, 256) == pytest.approx(float(brute_fisher(0, 256, 5, 256)))
    assert fisher_exact(0, 256, 5, 256) > 0.05 > fisher_exact(0, 256, 6, 256)
    assert fisher_exact(7, 256, 7, 256) == pytest.approx(1)


def test_wilson_of_known_figures():
    share = wilson(2, 10)
    assert share.value == 0.2
    assert share.low == pytest.approx(0.05668, abs=1e-5)
    assert share.high == pytest.approx(0.50984, abs=1e-5)


def test_wilson_at_the_edges_and_without_trials():
    assert wilson(0, 10).low == 0.0
    assert wilson(0, 10).high == pytest.approx(0.27753, abs=1e-5)
    assert wilson(10, 10).high == 1.0
    assert all(map(math.isnan, wilson(0, 0)))


def verdicts(c: int, n: int) -> list[bool]:
    return [index < c for index in range(n)]


def test_counts_each_kind_of_transition():
    before = [verdicts(c, 64) for c in (0, 0, 0, 9, 9, 0)]
    after = [verdicts(c, 64) for c in (0, 1, 30, 9, 0, 0)]
    found = transitions(before, after)
    assert found[:5] == (64, 1, 1, 2, 2)
    assert found.newly_solved.value == 0.5
    assert found.newly_lost.value == 0.5
    assert (found.significantly_gained, found.significantly_lost) == (1, 1)


def test_only_as_many_samples_count_as_both_policies_have():
    late = [False] * 4 + [True] * 4
    found = transitions([late], [[True] * 4])
    assert (found.n_samples, found.unsolved_solved) == (4, 1)


def test_refuses_different_prompts():
    with pytest.raises(ValueError, match="1 prompts before and 0 after"):
        transitions([[True]], [])


def samples(*counts: int, n: int = 8) -> dict[str, list[tuple[str, str]]]:
    """Prompts p0, p1, ... with their correct samples first."""
    return {
        f"p{place}": [("x", "correct" if index < c else "incorrect") for index in range(n)]
        for place, c in enumerate(counts)
    }


@pytest.mark.parametrize(("gained", "lost"), product(range(6), range(6)))
def test_mcnemar_agrees_with_the_enumeration_of_all_signs(gained, lost):
    signs = [sum(some) for some in product((0, 1), repeat=gained + lost)]
    as_rare = [s for s in signs if abs(2 * s - gained - lost) >= abs(gained - lost)]
    assert mcnemar_exact(gained, lost) == pytest.approx(len(as_rare) / len(signs))


def test_mcnemar_of_known_figures():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(6, 0) == 2 / 64
    assert mcnemar_exact(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert 0 < mcnemar_exact(4000, 3500) < 1e-7


def test_files_give_the_two_by_two_table_with_test_and_intervals(write_graded):
    before = write_graded("before", samples(0, 0, 0, 8, 8, 0, 0, 0, 0, 0))
    after = write_graded("after", samples(8, 1, 0, 8, 0, 8, 8, 8, 8, 0))
    (row,) = transition_table([before], [after])
    kinds = ("solved_solved", "solved_unsolved", "unsolved_solved", "unsolved_unsolved")
    assert [row[kind] for kind in kinds] == [1, 1, 6, 2]
    assert (row["before"], row["after"], row["n_samples"], row["n_prompts"]) == (
        "before",
        "after",
        8,
        10,
    )
    assert row["mcnemar_p"] == pytest.approx(2 * (1 + 7) / 2**7)
    assert (row["significantly_gained"], row["significantly_lost"]) == (5, 1)
    assert (row["newly_solved"], row["newly_lost"], row["net"]) == (
        6 / 8,
        1 / 2,
        pytest.approx(0.5),
    )
    assert row["newly_solved_low"] == wilson(6, 8).low
    assert 0 <= row["net_low"] < 0.5 < row["net_high"] <= 1


def test_files_are_compared_at_the_n_that_both_have(write_graded):
    before = write_graded("before", samples(0, n=2))
    late = {"p0": [("x", "incorrect")] * 2 + [("x", "correct")] * 6}
    after = write_graded("after", late)
    (row,) = transition_table([before], [after])
    assert (row["n_samples"], row["unsolved_unsolved"]) == (2, 1)
    (row,) = transition_table([after], [after], n=3)
    assert (row["n_samples"], row["solved_solved"]) == (3, 1)
    (row,) = transition_table([before], [after], n=1)
    assert (row["n_samples"], row["newly_lost"], row["newly_lost_low"]) == (1, None, None)


def test_several_seeds_are_compared_one_by_one_and_then_together(write_graded):
    base = write_graded("base", samples(0, 0, 8, 0))
    seeds = [write_graded("s0", samples(8, 0, 8, 0)), write_graded("s1", samples(8, 8, 0, 0))]
    rows = transition_table([base], seeds)
    assert [(row["before"], row["after"]) for row in rows] == [
        ("base", "s0"),
        ("base", "s1"),
        ("base", "2 seeds"),
    ]
    assert [row["unsolved_solved"] for row in rows] == [1, 2, 1.5]
    assert [row["solved_unsolved"] for row in rows] == [0, 1, 0.5]
    assert [row["net"] for row in rows] == pytest.approx([0.25, 0.25, 0.25])
    assert rows[-1]["mcnemar_p"] is rows[-1]["newly_solved_low"] is None
    with pytest.raises(UserError, match="3 seeds before and 2 after"):
        transition_table([base] * 3, seeds)


def test_each_benchmark_has_a_row_and_so_have_all_prompts(write_graded, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = []
    for name, counts in (("before", (0, 1)), ("after", (1, 1))):
        parts = [
            write_graded(f"{name}-{b}", samples(c), benchmark=b)
            for b, c in zip("xy", counts, strict=True)
        ]
        files.append(tmp_path / f"{name}.parquet")
        pq.write_table(pa.concat_tables(map(pq.read_table, parts)), files[-1])
    rows = transition_table([files[0]], [files[1]])
    assert [(row["benchmark"], row["n_prompts"], row["unsolved_solved"]) for row in rows] == [
        ("x", 1, 1),
        ("y", 1, 0),
        ("all", 2, 1),
    ]


def test_rollouts_graded_by_hand_differ_in_the_name_of_their_file_alone(write_graded):
    before = write_graded("before", samples(0), benchmark="before")
    after = write_graded("after", samples(1), benchmark="after")
    (row,) = transition_table([before], [after])
    assert (row["benchmark"], row["unsolved_solved"]) == ("before", 1)


def test_a_sample_graded_twice_is_refused(write_graded, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(write_graded("once", samples(1)))
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "twice.parquet")
    with pytest.raises(
        UserError, match=r"twice.parquet holds sample 0 of problem 'p0' of set twic"
    ):
        transition_table([tmp_path / "twice.parquet"], [tmp_path / "once.parquet"])
