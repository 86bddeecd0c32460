"""The risk parameter as a function of training progress.

The paper tried decaying and adaptive betas and none beat a fixed one: an open question, which is
why a schedule is a plain function here.

Each ends where it says: the first value stands at progress 0 and before it, the last at progress 1
and after it, exactly.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

Schedule = Callable[[float], float]


def constant(start: float) -> Schedule:
    """Return a schedule that stays at `start`."""
    return lambda _progress: start


def linear(start: float, end: float) -> Schedule:
    """Return a schedule that moves from `start` to `end` at one pace."""

    def value_at(progress: float) -> float:
        done = _share(progress)
        return start * (1 - done) + end * done

    return value_at


def cosine(start: float, end: float) -> Schedule:
    """Return a schedule that moves from `start` to `end` along half a cosine, slow at both ends."""
    straight = linear(start, end)
    return lambda progress: straight((1 - math.cos(math.pi * _share(progress))) / 2)


def exponential(start: float, end: float) -> Schedule:
    """Return a schedule that changes by the same factor in equal parts of training.

    Raises:
        ValueError: `start` and `end` are not on one side of 0: no factor leads from one to the
            other.
    """
    if start == 0 or end == 0 or (start > 0) != (end > 0):
        raise ValueError(
            f"an exponential schedule cannot go from {start:g} to {end:g}: both must be above 0, "
            "or both below it"
        )
    straight = linear(math.log(abs(start)), math.log(abs(end)))
    low, high = sorted((start, end))

    def value_at(progress: float) -> float:
        if not 0 < progress < 1:
            return start if progress <= 0 else end
        return min(max(math.copysign(math.exp(straight(progress)), start), low), high)

    return value_at


def phases(values: Sequence[float], at: Sequence[float]) -> Schedule:
    """Return a schedule that takes each of `values` in turn.

    Args:
        values: The value of each phase, two or more.
        at: The progress at which each but the first begins: rising, between 0 and 1.

    Raises:
        ValueError: `at` does not fit.
    """
    steps, bounds = tuple(values), tuple(at)
    if len(steps) < 2 or len(bounds) != len(steps) - 1:
        raise ValueError(
            f"{len(steps)} values and {len(bounds)} shares in at make no phases: give two values "
            "or more, and in at one share fewer"
        )
    if any(low >= high for low, high in pairwise((0.0, *bounds, 1.0))):
        raise ValueError(f"the shares {list(bounds)} in at must rise and lie between 0 and 1")
    return lambda progress: steps[bisect_right(bounds, progress)]


def _share(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "phases": phases,
}
