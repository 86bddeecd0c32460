"""GRPO: "DeepSeekMath", arXiv 2402.03300, equation of section 4.1.2 (outcome supervision).

    A_i = (r_i - mean(r)) / (std(r) + eps),   std with ddof = 1, eps = 1e-4 as in TRL

The division weighs easy and hard prompts alike: w(p) = 1 / std is symmetric about p = 1/2.
"""

from __future__ import annotations

import torch

from rsgrpo.advantages.groups import per_group

EPSILON = 1e-4


def grpo(rewards_PN: torch.Tensor) -> torch.Tensor:
    """Return the group-normalised advantage.

    The operations, their order and their precision are TRL's, so that weights agree bit by bit.

    Args:
        rewards_PN: Rewards, one row for each group; NaN marks a sample that could not be scored.

    Returns:
        Advantages of the same shape and dtype; 0 where there is no signal.

    Raises:
        ValueError: The shape is not (groups, samples), or a reward is infinite.
    """
    return per_group(rewards_PN, _normalise, precision=torch.float32)


def _normalise(r_PN: torch.Tensor) -> torch.Tensor:
    mean = r_PN.nanmean(1, keepdim=True)
    count = (~r_PN.isnan()).sum(1, keepdim=True)
    variance = ((r_PN - mean) ** 2).nanmean(1, keepdim=True) * (count / (count - 1))
    return (r_PN - mean) / (variance.sqrt() + EPSILON)
