"""Transitions, Wilson intervals and Fisher's exact test."""

from __future__ import annotations

import math
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.analyses.transitions import fisher_exact, transitions, wilson


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
