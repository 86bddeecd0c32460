"""RS-GRPO: "Risk-Sensitive RL for Alleviating Exploration Dilemmas", arXiv 2509.24261.

    A_i = (1/beta) (exp(beta r_i) / mean_j exp(beta r_j) - 1)

It ascends (1/beta) log E exp(beta r): the mean reward at beta = 0, the maximum as beta grows,
risk-averse below 0. With binary rewards and accuracy p it is (r_i - p) w(p), where w falls with p:
the harder the prompt, the more its rare correct samples weigh, and none is ever without signal.
"""

from __future__ import annotations

import math

import torch

from rsgrpo.advantages.groups import per_group


def rs_grpo(rewards_PN: torch.Tensor, risk_beta: float = 2.0) -> torch.Tensor:
    """Return the risk-sensitive advantage of each sample in its group.

    One expression serves every beta. Rewards are shifted by the group's largest (smallest for
    beta < 0), so that no exponential overflows, and `expm1` keeps full precision as beta -> 0.

    Args:
        rewards_PN: Rewards, one row for each group; NaN marks a sample that could not be scored.
        risk_beta: The risk parameter; 0 gives `r - mean(r)`.

    Returns:
        Advantages of the same shape and dtype: zero mean in each group, exactly 0 in a constant
        group, in a group of one and where the reward is NaN.

    Raises:
        ValueError: The shape is not (groups, samples), a reward is infinite or beta not finite.
    """
    if not math.isfinite(risk_beta):
        raise ValueError(f"risk_beta is {risk_beta}: it must be a finite number")
    return per_group(rewards_PN, lambda r_PN: _advantage(r_PN, risk_beta))


def weight(p: torch.Tensor, risk_beta: float) -> torch.Tensor:
    """Return w(p) of binary rewards, A_i = (r_i - p) w(p), for accuracies `p` of any shape."""
    if risk_beta == 0:
        return torch.ones_like(p)
    shrink = -math.expm1(-abs(risk_beta))
    floor = p if risk_beta > 0 else 1 - p
    return shrink / (abs(risk_beta) * (math.exp(-abs(risk_beta)) + shrink * floor))


def _advantage(r_PN: torch.Tensor, beta: float) -> torch.Tensor:
    extreme = r_PN.nan_to_num(nan=-math.inf).amax(1, keepdim=True)
    if beta < 0:
        extreme = r_PN.nan_to_num(nan=math.inf).amin(1, keepdim=True)
    shifted = r_PN - extreme
    utility = torch.expm1(beta * shifted) / beta if beta else shifted
    mean = utility.nanmean(1, keepdim=True)
    return (utility - mean) / (1 + beta * mean)
