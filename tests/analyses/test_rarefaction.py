"""Rarefaction against the enumeration of all subsets."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.analyses.diversity import rarefied


@pytest.mark.parametrize("to", [1, 2, 3, 4, 5, 6])
def test_agrees_with_the_enumeration_of_all_subsets(to):
    labels = ["a", "a", "a", "b", None, None]
    subsets = [{label for label in drawn if label} for drawn in combinations(labels, to)]
    wanted = sum(map(len, subsets)) / len(subsets)
    assert rarefied([3, 1], 6, to) == pytest.approx(wanted)


def test_all_samples_give_the_plain_count():
    assert rarefied([3, 1, 1], 7, 7) == 3.0


def test_nothing_found_counts_0():
    assert rarefied([], 8, 4) == 0.0


def test_no_value_beyond_n():
    assert math.isnan(rarefied([2], 4, 5))
    assert math.isnan(rarefied([], 4, 5))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_rises_with_the_common_n_and_never_passes_the_count(class_counts):
    n = sum(class_counts)
    curve = [rarefied(class_counts, n, to) for to in range(1, n + 1)]
    assert curve[0] == pytest.approx(1)
    assert all(b >= a - 1e-12 for a, b in pairwise(curve))
    assert curve[-1] == len(class_counts)
