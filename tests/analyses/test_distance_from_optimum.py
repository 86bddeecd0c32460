"""The distance to the policy that finds every solution equally often."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.analyses.distance import kl_from_optimum


def test_the_optimum_is_at_distance_0():
    assert kl_from_optimum([np.log([0.25] * 4), [0.0]]) == pytest.approx([0, 0])


def test_known_figures():
    found = kl_from_optimum([np.log([0.5, 0.125]), np.log([0.1])])
    wanted = [0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 0.125), math.log(10)]
    assert found == pytest.approx(wanted)


def test_a_solution_out_of_reach_is_infinitely_far():
    assert kl_from_optimum([[-math.inf, 0.0]])[0] == math.inf


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=8), st.floats(0.01, 1))
def test_never_negative(weights, mass):
    p = np.array(weights) / sum(weights) * mass
    assert kl_from_optimum([np.log(p)])[0] >= -1e-9


@pytest.mark.parametrize(
    ("values", "message"), [([], "prompt 0 has no solution"), ([0.0, 0.0], "sum to 2")]
)
def test_refuses_what_is_no_distribution(values, message):
    with pytest.raises(ValueError, match=message):
        kl_from_optimum([values])
