"""What every estimator shares: shapes, precision, and what a group without signal means."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def per_group(
    rewards_PN: torch.Tensor,
    formula: Callable[[torch.Tensor], torch.Tensor],
    precision: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Apply a formula to groups in high precision and return its result in the input's dtype.

    Args:
        rewards_PN: Rewards, one row for each group; NaN marks a sample that could not be scored.
        formula: Maps rewards_PN to advantages_PN; may return anything where there is no signal.
        precision: The least precise dtype to compute in. In float32 the cancellation of `u - mean`
            costs 1e-5 of an advantage at 16 samples and 1% at 1,024; float64 leaves only rounding.

    Returns:
        Advantages_PN, exactly 0 where the reward is NaN and in every group whose scored rewards
        are all equal (a group of one is such a group).

    Raises:
        ValueError: The shape is not (groups, samples), or a reward is infinite.
    """
    if rewards_PN.ndim != 2 or rewards_PN.shape[1] == 0:
        shape = tuple(rewards_PN.shape)
        raise ValueError(
            f"rewards have shape {shape}: expected (groups, samples), so reshape them with "
            "rewards.view(-1, num_generations)"
        )
    r_PN = rewards_PN.to(torch.promote_types(rewards_PN.dtype, precision))
    silent_PN = _silent(r_PN)
    return formula(r_PN).masked_fill(silent_PN, 0.0).to(_result_dtype(rewards_PN))


def has_signal(rewards_PN: torch.Tensor) -> torch.Tensor:
    """Return for each group whether its scored rewards differ: bool of shape (groups,).

    Decided on the rewards and never on an advantage, which may be 0 for other reasons.
    """
    highest_P = rewards_PN.nan_to_num(nan=-torch.inf).amax(1)
    lowest_P = rewards_PN.nan_to_num(nan=torch.inf).amin(1)
    return highest_P > lowest_P


def _silent(r_PN: torch.Tensor) -> torch.Tensor:
    """Return where the advantage is 0, as a mask that broadcasts to r_PN."""
    # A finite sum proves that nothing is missing, which spares the usual case the masks below.
    if math.isfinite(r_PN.sum().item()):
        return r_PN.amax(1, keepdim=True) == r_PN.amin(1, keepdim=True)
    if r_PN.isinf().any():
        raise ValueError("a reward is infinite: rewards must be finite numbers, or NaN if unscored")
    return r_PN.isnan() | ~has_signal(r_PN).unsqueeze(1)


def _result_dtype(rewards: torch.Tensor) -> torch.dtype:
    return rewards.dtype if rewards.is_floating_point() else torch.float32
