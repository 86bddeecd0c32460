"""What every estimator of the registry promises: shapes, dtypes, silence, clear refusals."""

from __future__ import annotations

import math

import pytest
import torch

from rsgrpo.advantages import ESTIMATORS, has_signal
from rsgrpo.config_training import ADVANTAGE_NAMES

every_estimator = pytest.mark.parametrize("name", ESTIMATORS)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def test_the_config_knows_exactly_the_registered_estimators() -> None:
    assert set(ADVANTAGE_NAMES) == set(ESTIMATORS)


@every_estimator
@pytest.mark.parametrize("dtype", FLOATS)
def test_shape_and_dtype_are_those_of_the_rewards(name: str, dtype: torch.dtype) -> None:
    got = ESTIMATORS[name](torch.rand(3, 4).to(dtype), 2.0)
    assert got.shape == (3, 4)
    assert got.dtype == dtype
    assert got.isfinite().all()


@every_estimator
def test_groups_without_signal_are_exactly_zero(name: str) -> None:
    nan = math.nan
    rewards_PN = torch.tensor([[0.1, 0.1, 0.1], [nan, 0.1, nan], [nan, nan, nan], [0.1, nan, 0.1]])
    assert torch.equal(ESTIMATORS[name](rewards_PN, 2.0), torch.zeros(4, 3))


@every_estimator
@pytest.mark.parametrize("reward", [0.0, 0.1, 1e4, math.nan])
def test_a_group_of_one_is_exactly_zero(name: str, reward: float) -> None:
    assert ESTIMATORS[name](torch.tensor([[reward]]), 2.0).tolist() == [[0.0]]


@every_estimator
def test_an_unscored_sample_is_exactly_zero_and_the_rest_are_not(name: str) -> None:
    got = ESTIMATORS[name](torch.tensor([[1.0, math.nan, 0.0, 0.0]]), 2.0)[0].tolist()
    assert got[1] == 0.0
    assert got[0] > 0 > got[2] == got[3]


@every_estimator
def test_no_groups_give_no_advantages(name: str) -> None:
    assert ESTIMATORS[name](torch.empty(0, 16), 2.0).shape == (0, 16)


@every_estimator
@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4), (3, 0)])
def test_a_wrong_shape_is_named_with_the_way_out(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(groups, samples\)") as fault:
        ESTIMATORS[name](torch.zeros(shape), 2.0)
    assert str(shape) in str(fault.value)
    assert "rewards.view(-1, num_generations)" in str(fault.value)


@every_estimator
@pytest.mark.parametrize("reward", [math.inf, -math.inf])
def test_an_infinite_reward_is_refused(name: str, reward: float) -> None:
    with pytest.raises(ValueError, match="a reward is infinite"):
        ESTIMATORS[name](torch.tensor([[reward, 0.0]]), 2.0)


def test_only_the_risk_sensitive_estimator_listens_to_beta() -> None:
    rewards_PN = torch.tensor([[1.0, 0, 0, 0]])
    moved = {
        name
        for name, f in ESTIMATORS.items()
        if not torch.equal(f(rewards_PN, 0), f(rewards_PN, 8))
    }
    assert moved == {"rs_grpo"}


def test_signal_means_that_scored_rewards_differ() -> None:
    nan = math.nan
    rewards_PN = torch.tensor([[0, 0, 1.0], [1, 1, 1], [nan, 0, 1], [nan, 1, 1], [nan, nan, nan]])
    assert has_signal(rewards_PN).tolist() == [True, False, True, False, False]
    assert has_signal(torch.tensor([[1, 0], [1, 1]])).tolist() == [True, False]
