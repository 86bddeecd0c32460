"""Where does the learning signal go: to hard prompts or to easy ones?

The advantages that two estimators give to the *same* groups, by the group's accuracy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

BINS = 32
Array = npt.NDArray[np.float64]


class Histogram(NamedTuple):
    """Counts of advantages: one row for each number of correct samples, one column for each bin."""

    edges: list[float]
    counts_by_accuracy: list[list[int]]


class AdvantageShape(NamedTuple):
    """Groups and their total |A| by number of correct samples, and histograms of A.

    `correct` is 0..N; `groups`, `standard_total` and `risk_sensitive_total` have an entry for each.
    """

    correct: list[int]
    groups: list[int]
    standard_total: list[float]
    risk_sensitive_total: list[float]
    standard_histogram: Histogram
    risk_histogram: Histogram


def advantage_shape(
    rewards_PN: npt.ArrayLike,
    standard_PN: npt.ArrayLike,
    risk_sensitive_PN: npt.ArrayLike,
    bins: int = BINS,
) -> AdvantageShape:
    """Return the shape of two estimators' advantages on the groups of one step.

    Args:
        rewards_PN: Rewards; a sample is correct where its reward is above 0 (NaN: unscored).
        standard_PN: Advantages of GRPO for these groups.
        risk_sensitive_PN: Advantages of RS-GRPO for the same.
        bins: Bins of each histogram, symmetric about 0 and the same for both estimators.

    Raises:
        ValueError: The shapes differ or are not (groups, samples).
    """
    rewards, standard, risk = (
        np.asarray(values, np.float64) for values in (rewards_PN, standard_PN, risk_sensitive_PN)
    )
    if rewards.ndim != 2 or not rewards.shape == standard.shape == risk.shape:
        shapes = f"{rewards.shape}, {standard.shape} and {risk.shape}"
        raise ValueError(f"rewards and advantages have shapes {shapes}: expected one (P, N)")
    size = rewards.shape[1] + 1
    correct_P = (rewards > 0).sum(axis=1)
    reach = max(np.abs(standard).max(initial=0.0), np.abs(risk).max(initial=0.0)) or 1.0
    edges = np.linspace(-reach, reach, bins + 1)
    return AdvantageShape(
        list(range(size)),
        np.bincount(correct_P, minlength=size).tolist(),
        _totals(standard, correct_P, size),
        _totals(risk, correct_P, size),
        _histogram(standard, correct_P, size, edges),
        _histogram(risk, correct_P, size, edges),
    )


def shape_table(shape: AdvantageShape) -> dict[str, Any]:
    """Return a shape as plain dicts and lists, ready for JSON."""
    histograms = {
        "standard_histogram": shape.standard_histogram._asdict(),
        "risk_histogram": shape.risk_histogram._asdict(),
    }
    return {**shape._asdict(), **histograms}


def _totals(advantages_PN: Array, correct_P: npt.NDArray[np.int64], size: int) -> list[float]:
    total_P = np.abs(advantages_PN).sum(axis=1)
    return [float(total) for total in np.bincount(correct_P, total_P, minlength=size)]


def _histogram(
    advantages_PN: Array, correct_P: npt.NDArray[np.int64], size: int, edges: Array
) -> Histogram:
    rows = [np.histogram(advantages_PN[correct_P == c], edges)[0].tolist() for c in range(size)]
    return Histogram(edges.tolist(), rows)
