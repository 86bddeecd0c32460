"""Which methods are worth choosing between, and where does the trade-off bend?

Points are pass@k of methods at two k, most often (pass@1, pass@k). Off the Pareto front another
method is at least as good in both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MIN_FRONT = 3
MIN_SHARE = 0.8
RULE = (
    "the point of the Pareto front farthest, on its outer side, from the chord between the front's "
    "end points; not named when fewer than 3 points are on the front or when it is the knee in "
    "under 80% of the bootstrap resamples"
)
Points = npt.NDArray[np.float64]


class Tradeoff(NamedTuple):
    """Which points are on the front, the knee's index or None, and bootstrap shares.

    `share` belongs to the farthest point even where it is too small for that to be called the
    knee; it is None where there is no such point. `front_share_M` says in which share of the
    resamples each point is on the front.
    """

    on_front_M: npt.NDArray[np.bool_]
    knee: int | None
    share: float | None
    front_share_M: npt.NDArray[np.float64]


def tradeoff(points_M2: Points, resampled_RM2: Points) -> Tradeoff:
    """Return front and knee of a set of methods.

    Args:
        points_M2: (pass@1, pass@k) of each method M.
        resampled_RM2: The same in each bootstrap resample, drawn jointly for all methods.
    """
    farthest = farthest_from_chord(points_M2)
    on_front_M = pareto_front(points_M2)
    front_share_M = np.mean([pareto_front(points) for points in resampled_RM2], axis=0)
    if farthest is None:
        return Tradeoff(on_front_M, None, None, front_share_M)
    again = [farthest_from_chord(points) == farthest for points in resampled_RM2]
    share = float(np.mean(again))
    knee = farthest if share >= MIN_SHARE else None
    return Tradeoff(on_front_M, knee, share, front_share_M)


def pareto_front(points_M2: Points) -> npt.NDArray[np.bool_]:
    """Return for each point whether no other is as good in both and better in one."""
    x, y = points_M2[:, 0], points_M2[:, 1]
    as_good = (x[:, None] >= x) & (y[:, None] >= y)
    better = (x[:, None] > x) | (y[:, None] > y)
    return np.asarray(~(as_good & better).any(axis=0))


def farthest_from_chord(points_M2: Points) -> int | None:
    """Return the front's point farthest outside the chord between its end points.

    None when fewer than three points are on the front, or none lies outside the chord. Which point
    it is does not depend on the scales of the axes.
    """
    front = np.flatnonzero(pareto_front(points_M2))
    if len(front) < MIN_FRONT:
        return None
    x, y = points_M2[front].T
    first, last = np.argmin(x), np.argmax(x)
    # Twice the area of the triangle with the chord: proportional to the distance from it.
    outside = (x - x[first]) * (y[first] - y[last]) + (y - y[first]) * (x[last] - x[first])
    best = int(np.argmax(outside))
    return int(front[best]) if outside[best] > 1e-12 else None
