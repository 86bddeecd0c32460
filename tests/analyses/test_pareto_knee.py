"""Fronts and knees drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.analyses.tradeoff import farthest_from_chord, pareto_front, tradeoff

BENT = np.array([[0.0, 1.0], [0.8, 0.9], [1.0, 0.0], [0.5, 0.5], [0.2, 0.95]])


def copies(points_M2, count=10):
    return np.stack([points_M2] * count)


def test_front_of_a_drawn_set():
    assert pareto_front(BENT).tolist() == [True, True, True, False, True]


def test_twins_are_both_on_the_front():
    assert pareto_front(np.array([[1.0, 1.0], [1.0, 1.0], [0.5, 1.0]])).tolist() == [
        True,
        True,
        False,
    ]


def test_knee_is_the_point_farthest_from_the_chord():
    found = tradeoff(BENT, copies(BENT))
    assert (found.knee, found.share) == (1, 1.0)


def test_two_points_on_the_front_have_no_knee():
    points = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    found = tradeoff(points, copies(points))
    assert (found.knee, found.share) == (None, None)


@pytest.mark.parametrize("middle", [0.5, 0.4])
def test_a_front_that_is_straight_or_bent_inwards_has_no_knee(middle):
    points = np.array([[0.0, 1.0], [0.5, middle], [1.0, 0.0]])
    assert farthest_from_chord(points) is None


@pytest.mark.parametrize(("same", "knee"), [(79, None), (80, 1)])
def test_knee_is_named_from_a_share_of_80_percent(same, knee):
    other = BENT.copy()
    other[4] = [0.75, 0.99]
    resampled = np.concatenate([copies(BENT, same), copies(other, 100 - same)])
    found = tradeoff(BENT, resampled)
    assert found.share == pytest.approx(same / 100)
    assert found.knee == knee


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_knee_does_not_depend_on_the_scales_of_the_axes(x, y):
    assert farthest_from_chord(BENT * [x, y]) == 1
