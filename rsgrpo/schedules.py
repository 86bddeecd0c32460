"""The risk parameter as a function of training progress.

The paper tried decaying and adaptive betas and none beat a fixed one: an open question, which is
why a schedule is a plain function here.
"""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(value: float) -> Schedule:
    """Return a schedule that stays at `value`."""
    return lambda _progress: value


def linear(start: float, end: float) -> Schedule:
    """Return a schedule that moves from `start` at progress 0 to `end` at progress 1.

    Both ends are met exactly, and progress outside [0, 1] stays at the nearer one.
    """

    def value_at(progress: float) -> float:
        done = min(max(progress, 0.0), 1.0)
        return start * (1 - done) + end * done

    return value_at


SCHEDULES: dict[str, Callable[..., Schedule]] = {"constant": constant, "linear": linear}
