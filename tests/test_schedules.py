"""Beta over training."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.config_training import SCHEDULE_KEYS, ScheduleConfig
from rsgrpo.schedules import (
    SCHEDULES,
    Schedule,
    constant,
    cosine,
    exponential,
    linear,
    phases,
)

finite = st.floats(-100, 100)
shares = st.floats(-1, 2)
risk_averse_or_seeking = st.sampled_from([-1.0, 1.0])


@st.composite
def moving(draw: st.DrawFn) -> tuple[float, float, Schedule]:
    """A schedule that moves from a start to an end."""
    if draw(st.booleans()):
        start, end = draw(finite), draw(finite)
        return start, end, draw(st.sampled_from([linear, cosine]))(start, end)
    sign, sizes = draw(risk_averse_or_seeking), st.floats(1e-6, 100)
    start, end = sign * draw(sizes), sign * draw(sizes)
    return start, end, exponential(start, end)


@st.composite
def phased(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Values of phases, and where each but the first begins."""
    inner = st.floats(0, 1, exclude_min=True, exclude_max=True)
    at = sorted(draw(st.sets(inner, min_size=1, max_size=5)))
    return draw(st.lists(finite, min_size=len(at) + 1, max_size=len(at) + 1)), at


@given(finite, shares)
def test_constant_stays(value: float, progress: float) -> None:
    assert constant(value)(progress) == value


def test_linear_by_hand() -> None:
    beta = linear(8, 1)
    assert [beta(t) for t in (0, 0.25, 0.5, 1)] == [8, 6.25, 4.5, 1]


def test_cosine_by_hand() -> None:
    beta = cosine(8, 0)
    quarter = 4 + 2 * math.sqrt(2)
    assert [beta(t) for t in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(
        [8, quarter, 4, 8 - quarter, 0], abs=1e-12
    )
    assert beta(1 / 3) == pytest.approx(6)


def test_exponential_by_hand() -> None:
    falling, rising = exponential(16, 1), exponential(-1, -16)
    assert [falling(t) for t in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([16, 8, 4, 2, 1])
    assert [rising(t) for t in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([-1, -2, -4, -8, -16])


def test_phases_by_hand() -> None:
    beta = phases([8, 4, 1], [0.3, 0.7])
    assert [beta(step / 10) for step in range(11)] == [8, 8, 8, 4, 4, 4, 4, 1, 1, 1, 1]


@given(moving())
def test_both_ends_are_met_exactly_and_kept(case: tuple[float, float, Schedule]) -> None:
    start, end, beta = case
    assert beta(0) == beta(-0.5) == start
    assert beta(1) == beta(1.5) == end


@given(moving(), shares)
def test_no_value_lies_outside_the_ends(
    case: tuple[float, float, Schedule], progress: float
) -> None:
    start, end, beta = case
    margin = 1e-12 * (abs(start) + abs(end))
    assert min(start, end) - margin <= beta(progress) <= max(start, end) + margin


@given(moving(), st.lists(shares, min_size=2))
def test_what_moves_never_turns_back(
    case: tuple[float, float, Schedule], progress: list[float]
) -> None:
    start, end, beta = case
    margin = 1e-12 * (abs(start) + abs(end))
    values = [beta(t) if end >= start else -beta(t) for t in sorted(progress)]
    assert all(later >= earlier - margin for earlier, later in pairwise(values))


@given(st.floats(1e-6, 100), st.floats(1e-6, 100), st.floats(0, 0.5), st.floats(0, 0.5))
def test_exponential_changes_by_one_factor_in_equal_parts(
    start: float, end: float, first: float, part: float
) -> None:
    beta = exponential(start, end)
    factor = (end / start) ** part
    assert beta(first + part) == pytest.approx(factor * beta(first), rel=1e-9)


@given(finite, finite, st.floats(0, 1))
def test_cosine_is_the_same_from_either_end(start: float, end: float, progress: float) -> None:
    there, back = cosine(start, end)(progress), cosine(end, start)(1 - progress)
    assert there == pytest.approx(back, abs=1e-9)


@given(phased(), shares)
def test_phases_take_each_value_from_its_share_on(
    case: tuple[list[float], list[float]], progress: float
) -> None:
    values, at = case
    begun = sum(share <= progress for share in at)
    assert phases(values, at)(progress) == values[begun]


@given(phased())
def test_phases_end_exactly(case: tuple[list[float], list[float]]) -> None:
    values, at = case
    assert (phases(values, at)(0), phases(values, at)(1)) == (values[0], values[-1])


@pytest.mark.parametrize(("start", "end"), [(8, 0), (0, 8), (8, -1), (-8, 1), (0, 0)])
def test_exponential_does_not_reach_or_cross_zero(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="both must be above 0, or both below it"):
        exponential(start, end)


@pytest.mark.parametrize(
    ("values", "at", "sentence"),
    [
        ([8], [], "1 values and 0 shares"),
        ([8, 1], [], "2 values and 0 shares"),
        ([8, 1], [0.2, 0.4], "2 values and 2 shares"),
        ([8, 4, 1], [0.7, 0.3], "must rise"),
        ([8, 4, 1], [0.3, 0.3], "must rise"),
        ([8, 1], [0], "between 0 and 1"),
        ([8, 1], [1], "between 0 and 1"),
    ],
)
def test_phases_that_do_not_fit_are_refused(
    values: list[float], at: list[float], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        phases(values, at)


def test_the_registry_and_the_config_name_the_same() -> None:
    named = {
        "constant": constant,
        "linear": linear,
        "cosine": cosine,
        "exponential": exponential,
        "phases": phases,
    }
    assert named == SCHEDULES
    assert SCHEDULE_KEYS.keys() == SCHEDULES.keys()


def test_a_schedule_of_the_config_is_the_function() -> None:
    beta = ScheduleConfig(schedule="phases", values=(8, 1), at=(0.5,)).build()
    assert [beta(t) for t in (0, 0.5)] == [8, 1]
    assert ScheduleConfig(schedule="exponential", start=16, end=1).build()(0.5) == pytest.approx(4)
