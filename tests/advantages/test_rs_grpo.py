"""RS-GRPO against hand-computed numbers, 50-digit arithmetic and the algebra it must obey."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.advantages import dr_grpo, rs_grpo
from rsgrpo.advantages.rs_grpo import weight

BETAS = (0.0, 1e-8, 1e-6, 1e-4, 1e-2, 0.1, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0, -4.0)
TOLERANCE = 2e-6

betas = st.floats(1e-8, 64) | st.floats(-16, -1e-8) | st.just(0.0)
# Multiples of 1/8: differences and shifts of such rewards are exact in float32.
eighths = st.integers(-800, 800).map(lambda n: n / 8)
groups = st.lists(eighths, min_size=2, max_size=24)


def exact(rewards: list[float], beta: float) -> list[mpmath.mpf]:
    """The definition in 50 digits."""
    with mpmath.workdps(50):
        values = [mpmath.mpf(r) for r in rewards]
        if beta == 0:
            return [v - mpmath.fsum(values) / len(values) for v in values]
        powers = [mpmath.exp(mpmath.mpf(beta) * v) for v in values]
        mean = mpmath.fsum(powers) / len(powers)
        return [(power / mean - 1) / mpmath.mpf(beta) for power in powers]


def advantage(rewards: list[float], beta: float, dtype: torch.dtype = torch.float32) -> list[float]:
    """The advantages of one group."""
    return rs_grpo(torch.tensor([rewards], dtype=dtype), beta)[0].tolist()


def binary(n: int, correct: int) -> list[float]:
    """A group of `n` with `correct` rewards of 1."""
    return [1.0] * correct + [0.0] * (n - correct)


def assert_exact(rewards: list[float], beta: float) -> None:
    """Compare each sample with 50 digits, in relative error."""
    reward_1N = torch.tensor([rewards], dtype=torch.float32)
    expected = exact(reward_1N[0].tolist(), beta)
    got = rs_grpo(reward_1N, beta)[0].tolist()
    for value, truth in zip(got, expected, strict=True):
        assert abs(value - truth) <= TOLERANCE * abs(truth), (beta, value, truth)


@pytest.mark.parametrize(
    ("beta", "right", "wrong"),
    [
        (0.0, 0.75, -0.25),
        (math.log(2), 0.6 / math.log(2), -0.2 / math.log(2)),
        (math.log(5), 1.5 / math.log(5), -0.5 / math.log(5)),
        (-math.log(2), 3 / (7 * math.log(2)), -1 / (7 * math.log(2))),
        (1000.0, 3 / 1000, -1 / 1000),
    ],
)
def test_one_right_of_four_by_hand(beta: float, right: float, wrong: float) -> None:
    assert advantage([1, 0, 0, 0], beta) == pytest.approx([right, wrong, wrong, wrong], rel=1e-7)


def test_graded_rewards_by_hand() -> None:
    # exp(beta r) = 1, 2, 4, 1 with mean 2 at beta = ln 2
    expected = [-0.5 / math.log(2), 0.0, 1 / math.log(2), -0.5 / math.log(2)]
    assert advantage([0, 1, 2, 0], math.log(2)) == pytest.approx(expected, rel=1e-7, abs=1e-15)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("n", [2, 3, 16, 64])
def test_binary_groups_of_every_accuracy_match_50_digits(beta: float, n: int) -> None:
    for correct in {1, 2, n // 2, n - 1}:
        assert_exact(binary(n, correct), beta)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
@pytest.mark.parametrize("n", [5, 16, 256])
def test_continuous_rewards_match_50_digits(beta: float, scale: float, n: int) -> None:
    rewards = torch.rand(n, generator=torch.Generator().manual_seed(n)) * scale
    assert_exact(rewards.tolist(), beta)


@pytest.mark.parametrize("beta", BETAS)
def test_small_differences_on_a_large_offset_match_50_digits(beta: float) -> None:
    assert_exact([1e4, 1e4 + 2**-9, 1e4 - 2**-9, 1e4 + 2**-6], beta)


@given(groups)
def test_beta_zero_is_the_centred_reward(rewards: list[float]) -> None:
    reward_1N = torch.tensor([rewards])
    assert torch.equal(rs_grpo(reward_1N, 0.0), dr_grpo(reward_1N))
    centred = reward_1N.double() - reward_1N.double().mean()
    torch.testing.assert_close(rs_grpo(reward_1N, 0.0), centred.float(), rtol=1e-6, atol=1e-12)


@given(groups, betas)
def test_every_group_has_zero_mean(rewards: list[float], beta: float) -> None:
    got = advantage(rewards, beta)
    assert abs(math.fsum(got)) <= 1e-7 * len(got) * max(map(abs, got))


@given(groups, betas, eighths)
def test_adding_a_constant_changes_no_bit(rewards: list[float], beta: float, shift: float) -> None:
    assert advantage([r + shift for r in rewards], beta) == advantage(rewards, beta)


@given(groups, st.floats(0.01, 8) | st.floats(-8, -0.01), st.sampled_from([-2.0, 0.25, 3.0, 8.0]))
def test_scaling_rewards_scales_beta(rewards: list[float], beta: float, c: float) -> None:
    scaled = advantage([c * r for r in rewards], beta, torch.float64)
    expected = [c * a for a in advantage(rewards, c * beta, torch.float64)]
    assert scaled == pytest.approx(expected, rel=1e-9, abs=1e-9 * max(map(abs, expected)))


@given(groups, betas)
def test_order_follows_rewards_and_the_group_as_a_set(rewards: list[float], beta: float) -> None:
    ascending = advantage(sorted(rewards), beta)
    assert ascending == sorted(ascending)
    assert advantage(sorted(rewards)[::-1], beta) == pytest.approx(ascending[::-1], rel=1e-6)


@given(eighths, st.integers(1, 20), betas)
def test_a_constant_group_and_a_group_of_one_give_exactly_zero(
    reward: float, n: int, beta: float
) -> None:
    assert advantage([reward] * n, beta) == [0.0] * n


@pytest.mark.parametrize("n", [2, 4, 16, 64])
@pytest.mark.parametrize("beta", [0.5, 4.0, 64.0])
def test_the_largest_possible_advantage_is_n_minus_one_over_beta(n: int, beta: float) -> None:
    lone_winner = [1e4] + [0.0] * (n - 1)
    assert max(advantage(lone_winner, beta)) == pytest.approx((n - 1) / beta, rel=1e-7)


@given(groups, st.floats(0.01, 64))
def test_no_advantage_exceeds_the_bound(rewards: list[float], beta: float) -> None:
    assert max(advantage(rewards, beta)) <= (len(rewards) - 1) / beta * (1 + 1e-6)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from([1e-8, 1.0, -1.0, 64.0]))
def test_finite_for_exponents_up_to_a_million(first: float, second: float, beta: float) -> None:
    rewards = [first / abs(beta), second / abs(beta), 0.0]
    assert all(math.isfinite(a) for a in advantage(rewards, beta))


def test_finite_for_extreme_betas() -> None:
    for beta in (1e-300, 1e300, -1e300):
        assert all(math.isfinite(a) for a in advantage([1, 0, 0.5], beta))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("beta", [*BETAS, 12.0, 100.0, 1000.0])
def test_low_precision_is_the_exact_result_rounded_once(dtype: torch.dtype, beta: float) -> None:
    reward_PN = torch.tensor([binary(16, 1), binary(16, 15), [0.1 * i for i in range(16)]])
    got = rs_grpo(reward_PN.to(dtype), beta)
    assert got.dtype == dtype
    assert torch.equal(got, rs_grpo(reward_PN.to(dtype).double(), beta).to(dtype))
    assert got.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_counts_and_booleans_give_float32(dtype: torch.dtype) -> None:
    got = rs_grpo(torch.tensor([[1, 0, 0, 0]]).to(dtype), 2.0)
    assert torch.equal(got, rs_grpo(torch.tensor([[1.0, 0, 0, 0]]), 2.0))


@pytest.mark.parametrize("beta", [0.0, 1e-6, 2.0, 64.0, -4.0])
def test_an_unscored_sample_counts_for_nothing(beta: float) -> None:
    with_gap = advantage([0.5, math.nan, 1.0, 0.25], beta)
    without = advantage([0.5, 1.0, 0.25], beta)
    assert with_gap[1] == 0.0
    assert [with_gap[0], *with_gap[2:]] == pytest.approx(without, rel=1e-6)


def test_groups_do_not_touch_one_another_nor_the_input() -> None:
    reward_PN = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    before = reward_PN.clone()
    got = rs_grpo(reward_PN, 4.0)
    assert torch.equal(reward_PN, before)
    assert got.data_ptr() != reward_PN.data_ptr()
    for row, alone in zip(got, reward_PN, strict=True):
        assert torch.equal(row, rs_grpo(alone.unsqueeze(0), 4.0)[0])
    assert torch.equal(rs_grpo(reward_PN.T.contiguous().T, 4.0), got)


@pytest.mark.parametrize("beta", [math.nan, math.inf, -math.inf])
def test_a_beta_that_is_no_number_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="it must be a finite number"):
        rs_grpo(torch.rand(2, 4), beta)


@given(st.integers(2, 40), st.data(), st.floats(0.01, 64) | st.floats(-8, -0.01) | st.just(0.0))
def test_binary_advantage_is_the_residual_times_the_weight(
    n: int, data: st.DataObject, beta: float
) -> None:
    correct = data.draw(st.integers(1, n - 1))
    p = torch.tensor(correct / n, dtype=torch.float64)
    w = weight(p, beta).item()
    expected = [(r - p.item()) * w for r in binary(n, correct)]
    assert advantage(binary(n, correct), beta) == pytest.approx(expected, rel=TOLERANCE)


def test_weight_by_hand() -> None:
    # e^beta - 1 = 3: w(p) = 3 / (ln 4 (1 + 3 p))
    p = torch.tensor([0.0, 1 / 3, 1.0])
    expected = torch.tensor([3.0, 1.5, 0.75]) / math.log(4)
    torch.testing.assert_close(weight(p, math.log(4)), expected)


@given(st.floats(0.02, 0.98), st.floats(0.001, 0.01), st.floats(0.05, 32), st.floats(1.1, 2))
def test_weight_is_positive_and_falls_faster_for_larger_beta(
    p: float, step: float, beta: float, factor: float
) -> None:
    accuracy = torch.tensor([p, p + step], dtype=torch.float64)
    low, high = weight(accuracy, beta), weight(accuracy, factor * beta)
    assert (low > 0).all() and (high > 0).all()
    assert low[0] > low[1]
    assert high[0] / high[1] >= low[0] / low[1]


@pytest.mark.parametrize("beta", [1.0, 4.0, 64.0, -4.0])
def test_no_correct_sample_is_ever_without_signal(beta: float) -> None:
    for correct in range(1, 16):
        assert advantage(binary(16, correct), beta)[0] > 0
