"""How many different answers, solutions and expression trees does a policy find for a prompt?

A count of distinct things grows with the number of samples, so policies are compared at one n.
"""

from __future__ import annotations

from collections.abc import Sequence

from rsgrpo.evaluation.passk import pass_at_k


def rarefied(class_counts: Sequence[int], n: int, to: int) -> float:
    """Return the number of distinct classes expected among `to` of a prompt's n samples.

    Hurlbert's rarefaction, "The nonconcept of species diversity" (Ecology, 1971): the sum over
    classes of 1 - C(n - m, to) / C(n, to), which is pass@to of each class taken as the correct one.

    Args:
        class_counts: Samples m in each class. Samples outside every class (wrong ones, where
            solutions are counted) are part of n only.
        n: Samples drawn.
        to: Common number of samples, at most n (else the result is NaN).

    Raises:
        ValueError: A count is negative or above n, or `to` is below 1.
    """
    sizes = [n] * len(class_counts)
    if not sizes:
        return 0.0 if to <= n else float("nan")
    return float(pass_at_k(list(class_counts), sizes, (to,)).sum())
