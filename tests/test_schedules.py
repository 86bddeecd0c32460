"""Beta over training."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.schedules import SCHEDULES, constant, linear

finite = st.floats(-100, 100)


@given(finite, st.floats(-1, 2))
def test_constant_stays(value: float, progress: float) -> None:
    assert constant(value)(progress) == value


def test_linear_by_hand() -> None:
    beta = linear(8, 1)
    assert [beta(t) for t in (0, 0.25, 0.5, 1)] == [8, 6.25, 4.5, 1]


@given(finite, finite)
def test_linear_meets_both_ends_exactly_and_stays_there(start: float, end: float) -> None:
    beta = linear(start, end)
    assert beta(0) == beta(-0.5) == start
    assert beta(1) == beta(1.5) == end


@given(finite, finite, st.floats(0, 1))
def test_linear_stays_between_its_ends(start: float, end: float, progress: float) -> None:
    margin = 1e-12 * (abs(start) + abs(end))
    low, high = sorted((start, end))
    assert low - margin <= linear(start, end)(progress) <= high + margin


def test_the_registry_names_both() -> None:
    assert {"constant": constant, "linear": linear} == SCHEDULES
