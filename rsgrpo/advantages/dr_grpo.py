"""Dr. GRPO: "Understanding R1-Zero-Like Training", arXiv 2503.20783.

    A_i = r_i - mean(r)

GRPO without the division by the standard deviation; RS-GRPO at beta = 0.
"""

from __future__ import annotations

import torch

from rsgrpo.advantages.groups import per_group


def dr_grpo(rewards_PN: torch.Tensor) -> torch.Tensor:
    """Return the centred rewards of each group.

    Args:
        rewards_PN: Rewards, one row for each group; NaN marks a sample that could not be scored.

    Returns:
        Advantages of the same shape and dtype; 0 where there is no signal.

    Raises:
        ValueError: The shape is not (groups, samples), or a reward is infinite.
    """
    return per_group(rewards_PN, lambda r_PN: r_PN - r_PN.nanmean(1, keepdim=True))
