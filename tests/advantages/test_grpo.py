"""GRPO's advantage is TRL's, bit by bit, and Dr. GRPO's is the centred reward."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.advantages import dr_grpo, grpo, has_signal

nanstd = pytest.importorskip("trl.trainer.utils").nanstd


def trl_advantage(rewards_PN: torch.Tensor) -> torch.Tensor:
    """The lines of `GRPOTrainer` for sum_then_normalize with scale_rewards="group"."""
    n = rewards_PN.shape[1]
    rewards = rewards_PN.reshape(-1)
    mean_grouped_rewards = torch.nanmean(rewards.view(-1, n), dim=1).repeat_interleave(n, dim=0)
    std_rewards = nanstd(rewards.view(-1, n), dim=1).repeat_interleave(n, dim=0)
    advantages = (rewards - mean_grouped_rewards) / (std_rewards + 1e-4)
    return torch.nan_to_num(advantages, nan=0.0).view(-1, n)


def assert_bitwise_on_live_groups(rewards_PN: torch.Tensor) -> None:
    live = has_signal(rewards_PN)
    assert torch.equal(grpo(rewards_PN)[live], trl_advantage(rewards_PN)[live])


@pytest.mark.parametrize("n", [2, 3, 8, 16, 64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_continuous_rewards_agree_with_trl_bit_by_bit(n: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(n)
    assert_bitwise_on_live_groups(scale * torch.randn(50, n, generator=generator))


@given(st.integers(2, 32), st.integers(0, 2**31))
def test_binary_rewards_agree_with_trl_bit_by_bit(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    assert_bitwise_on_live_groups(torch.randint(0, 2, (8, n), generator=generator).float())


def test_unscored_samples_agree_with_trl_bit_by_bit() -> None:
    rewards_PN = torch.rand(40, 8, generator=torch.Generator().manual_seed(0))
    rewards_PN[torch.rand(40, 8, generator=torch.Generator().manual_seed(1)) < 0.2] = math.nan
    assert_bitwise_on_live_groups(rewards_PN)


def test_groups_of_equal_binary_rewards_agree_with_trl_too() -> None:
    rewards_PN = torch.stack([torch.zeros(16), torch.ones(16)])
    assert torch.equal(grpo(rewards_PN), trl_advantage(rewards_PN))


def test_grpo_by_hand() -> None:
    # mean 1/4, standard deviation (ddof 1) 1/2
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25]]) / 0.5001
    torch.testing.assert_close(grpo(torch.tensor([[1.0, 0, 0, 0]])), expected)


def test_dr_grpo_by_hand() -> None:
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25], [1.0, 0.0, -1.0, 0.0]])
    assert torch.equal(dr_grpo(torch.tensor([[1.0, 0, 0, 0], [3, 2, 1, 2]])), expected)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=20))
def test_dr_grpo_has_zero_mean_to_the_last_digits(rewards: list[float]) -> None:
    got = dr_grpo(torch.tensor([rewards]))[0].tolist()
    assert abs(math.fsum(got)) <= 1e-7 * len(got) * max(map(abs, got))
