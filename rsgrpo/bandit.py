"""The paper's sanity check, arXiv 2509.24261: a 100-armed bandit that starts on the wrong peak.

The rewards have a broad best peak at arm 40 and a lower one at arm 75, where the initial policy
sits. Policy gradient on the mean reward (beta 0) stays there; a risk-seeking beta leaves it.

Every beta and seed is a row of one tensor: `_G` policies (betas x seeds), `_N` pulls of an update,
`_A` arms. A seed owns one random stream, the same for every beta and whatever runs beside it: the
stream that `numpy.random.default_rng(seed).choice(100, p=policy)` would consume pull by pull.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rsgrpo.advantages import rs_grpo
from rsgrpo.errors import UserError

ARMS = 100
PULLS_PER_UPDATE = 16
LEARNING_RATE = 0.1
SOLVED_REWARD = 0.9
BETAS = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
PULLS = 400_000

_UPDATES_PER_BLOCK = 250
# Stands for beta 0: exp(x) - 1 is x at such an x, and scaling by a power of two loses no bit.
_NEUTRAL_SCALE = 2.0**-500


class BanditRow(NamedTuple):
    """One policy after training.

    `final_reward` is its expected reward, the mean of the arms' rewards under the probabilities
    after the last update (no sampling noise). `first_pull_above_0_9` is the number of pulls made
    when that expectation first exceeded 0.9, looked at after every update; None if it never did.
    """

    risk_beta: float
    seed: int
    final_reward: float
    first_pull_above_0_9: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the row as a mapping with its published key `first_pull_above_0.9`."""
        return dict(zip(BANDIT_KEYS, self, strict=True))


BANDIT_KEYS = ("risk_beta", "seed", "final_reward", "first_pull_above_0.9")


def run_bandit(
    betas: Sequence[float] = BETAS,
    seeds: Sequence[int] = tuple(range(20)),
    pulls: int = PULLS,
    progress: Callable[[int, int], None] | None = None,
) -> list[BanditRow]:
    """Train one softmax policy for each beta and seed, all at once.

    Args:
        betas: Risk parameters.
        seeds: Random streams, integers from 0.
        pulls: Pulls of each policy, a multiple of 16.
        progress: Called as `progress(pulls_done, pulls)` after every 250 updates.

    Returns:
        One row for each beta and seed, in that order.

    Raises:
        UserError: A beta is not finite, a seed is negative, one of the two is empty, or pulls is
            not a positive multiple of 16.
    """
    _refuse(betas, seeds, pulls)
    beta_G = torch.tensor(betas, dtype=torch.float64).repeat_interleave(len(seeds))
    streams = [np.random.default_rng(seed) for seed in seeds]
    with torch.inference_mode():
        reward_G, solved_G = _train(beta_G, streams, pulls, progress)
    policies = [(float(beta), seed) for beta in betas for seed in seeds]
    return [
        BanditRow(beta, seed, reward, None if math.isinf(solved) else int(solved))
        for (beta, seed), reward, solved in zip(
            policies, reward_G.tolist(), solved_G.tolist(), strict=True
        )
    ]


def arm_rewards() -> torch.Tensor:
    """Return the reward of each arm, float64 of shape (100,): peaks 1.0 at 40 and 0.6 at 75."""
    x = torch.arange(ARMS, dtype=torch.float64)
    return 0.1 + 0.9 * torch.exp(-((x - 40) ** 2) / 50) + 0.5 * torch.exp(-((x - 75) ** 2) / 50)


def initial_logits() -> torch.Tensor:
    """Return the centred logits of the initial policy, float64 of shape (100,), peaked at 75."""
    x = torch.arange(ARMS, dtype=torch.float64)
    density = torch.exp(-0.5 * ((x - 75) / 5) ** 2) + 0.1
    logits = (density / density.sum()).log()
    return logits - logits.mean()


def _refuse(betas: Sequence[float], seeds: Sequence[int], pulls: int) -> None:
    if not betas or not seeds:
        raise UserError("the bandit needs at least one beta and one seed: name some")
    for beta in betas:
        if not math.isfinite(beta):
            raise UserError(f"beta is {beta}: choose a finite number")
    for seed in seeds:
        if seed < 0:
            raise UserError(f"seed is {seed}: choose an integer from 0")
    if pulls < 1 or pulls % PULLS_PER_UPDATE:
        raise UserError(f"pulls is {pulls}: choose a positive multiple of {PULLS_PER_UPDATE}")


def _train(
    beta_G: torch.Tensor,
    streams: Sequence[np.random.Generator],
    pulls: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the final expected rewards and the pulls at which each first exceeded 0.9."""
    logits_GA = initial_logits().repeat(len(beta_G), 1)
    solved_G = torch.full_like(beta_G, math.inf)
    scale_G1 = beta_G.where(beta_G.abs() > _NEUTRAL_SCALE, _NEUTRAL_SCALE).unsqueeze(1)
    reward_A = arm_rewards()
    scaled_reward_GA = reward_A * scale_G1
    step_G1 = LEARNING_RATE / PULLS_PER_UPDATE / scale_G1
    updates = pulls // PULLS_PER_UPDATE
    for done in range(0, updates, _UPDATES_PER_BLOCK):
        block = min(_UPDATES_PER_BLOCK, updates - done)
        uniform_TGN = _uniforms(streams, block, len(beta_G))
        expected_TG = torch.stack(
            [_update(logits_GA, scaled_reward_GA, step_G1, u) @ reward_A for u in uniform_TGN]
        )
        solved_G = solved_G.minimum(_first_above(expected_TG, done))
        if progress:
            progress((done + block) * PULLS_PER_UPDATE, pulls)
    expected_G = logits_GA.softmax(1) @ reward_A
    return expected_G, solved_G.minimum(_first_above(expected_G.unsqueeze(0), updates))


def _uniforms(streams: Sequence[np.random.Generator], updates: int, rows: int) -> torch.Tensor:
    uniform_TSN = np.stack([s.random((updates, PULLS_PER_UPDATE)) for s in streams], axis=1)
    # Rounding may leave a cumulative policy just below 1: no draw may lie beyond it.
    below_one_TSN = np.minimum(uniform_TSN, 1 - 1e-12)
    return torch.from_numpy(below_one_TSN).repeat(1, rows // len(streams), 1)


def _update(
    logits_GA: torch.Tensor,
    scaled_reward_GA: torch.Tensor,
    step_G1: torch.Tensor,
    uniform_GN: torch.Tensor,
) -> torch.Tensor:
    """Take one policy-gradient step in place; return the policies that pulled.

    The gradient of log pi(a) is onehot(a) - pi; as a group's advantages sum to 0, pi drops out.
    One call serves every beta, since A_beta(r) = A_1(beta r) / beta: `scaled_reward_GA` holds
    beta r, and `step_G1` the learning rate for each of the 16 pulls over beta.
    """
    policy_GA = logits_GA.softmax(1)
    arm_GN = torch.searchsorted(policy_GA.cumsum(1), uniform_GN, right=True)
    advantage_GN = rs_grpo(scaled_reward_GA.gather(1, arm_GN), 1.0)
    logits_GA.scatter_add_(1, arm_GN, advantage_GN * step_G1)
    return policy_GA


def _first_above(expected_TG: torch.Tensor, updates_before: int) -> torch.Tensor:
    above_TG = expected_TG > SOLVED_REWARD
    first_G = (updates_before + above_TG.int().argmax(0)) * PULLS_PER_UPDATE
    return torch.where(above_TG.any(0), first_G.double(), math.inf)
