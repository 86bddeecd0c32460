"""How far is a policy from the optimal one that finds every solution equally often?

Where all solutions of a prompt are known the distance is exact: pi* is uniform over them, and

    KL(pi* || policy) = - log S - (1/S) sum_s log policy(s),   S solutions
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def kl_from_optimum(log_probabilities: Sequence[npt.ArrayLike]) -> npt.NDArray[np.float64]:
    """Return kl_P, KL(pi* || policy) of each prompt in nats.

    Args:
        log_probabilities: For each prompt, the policy's log-probability of each of its solutions,
            end token included.

    Returns:
        0 where the policy puts all its mass evenly on the solutions, inf where it cannot produce
        one of them.

    Raises:
        ValueError: A prompt has no solution, or its probabilities sum to more than 1.
    """
    return np.array([_kl(prompt, values) for prompt, values in enumerate(log_probabilities)])


def _kl(prompt: int, values: npt.ArrayLike) -> float:
    log_p_S = np.asarray(values, np.float64)
    if log_p_S.ndim != 1 or not log_p_S.size:
        raise ValueError(f"prompt {prompt} has no solution: give one log-probability for each")
    mass = np.exp(log_p_S).sum()
    # Single precision leaves sums a little above 1.
    if not mass <= 1 + 1e-4:
        raise ValueError(f"prompt {prompt}: the solutions' probabilities sum to {mass:g}, above 1")
    return float(-np.log(log_p_S.size) - log_p_S.mean())
