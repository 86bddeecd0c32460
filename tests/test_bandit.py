"""The bandit against a loop over single pulls, and what the paper says it shows."""

from __future__ import annotations

import numpy as np
import pytest

from rsgrpo.bandit import BanditRow, arm_rewards, initial_logits, run_bandit
from rsgrpo.errors import UserError

ALL_BETAS = (0, 2, 4, 8, 16, 32, 64)


def pull_by_pull(beta: float, seed: int, pulls: int) -> tuple[float, int | None]:
    """The definition, one pull at a time: final expected reward, first pull above 0.9."""
    x = np.arange(100)
    reward = 0.1 + 0.9 * np.exp(-((x - 40) ** 2) / 50) + 0.5 * np.exp(-((x - 75) ** 2) / 50)
    density = np.exp(-0.5 * ((x - 75) / 5) ** 2) + 0.1
    logits = np.log(density / density.sum())
    logits = logits - logits.mean()
    stream, arms, first = np.random.default_rng(seed), [], None
    for pull in range(1, pulls + 1):
        policy = np.exp(logits) / np.exp(logits).sum()
        arms.append(stream.choice(100, p=policy))
        if len(arms) == 16:
            logits = logits + 0.1 * policy_gradient(policy, arms, reward[arms], beta)
            arms = []
            if first is None and np.exp(logits) @ reward / np.exp(logits).sum() > 0.9:
                first = pull
    return float(np.exp(logits) @ reward / np.exp(logits).sum()), first


def policy_gradient(
    policy: np.ndarray, arms: list[int], reward: np.ndarray, beta: float
) -> np.ndarray:
    """The mean over pulls of A_i (onehot(a_i) - policy), with A_i as the paper writes it."""
    if beta == 0:
        advantage = reward - reward.mean()
    else:
        advantage = (np.exp(beta * reward) / np.exp(beta * reward).mean() - 1) / beta
    return (advantage[:, None] * (np.eye(100)[arms] - policy)).mean(0)


@pytest.mark.parametrize(("beta", "seed"), [(0, 0), (2, 5), (4, 1), (64, 0), (-3, 2)])
def test_matches_a_loop_over_single_pulls(beta: float, seed: int) -> None:
    pulls = 8_000
    (row,) = run_bandit([beta], [seed], pulls)
    reward, first = pull_by_pull(beta, seed, pulls)
    assert row.final_reward == pytest.approx(reward, abs=1e-6)
    assert row.first_pull_above_0_9 == first


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0, 4])
def test_matches_a_loop_over_single_pulls_past_the_crossing(beta: float) -> None:
    pulls = 64_000
    (row,) = run_bandit([beta], [0], pulls)
    reward, first = pull_by_pull(beta, 0, pulls)
    assert row.final_reward == pytest.approx(reward, abs=1e-6)
    assert row.first_pull_above_0_9 == first
    assert (first is not None) == (beta == 4)


def test_a_policy_does_not_depend_on_what_runs_beside_it() -> None:
    together = {row[:2]: row for row in run_bandit([0, 4, -1, 1e-9], [3, 0, 7], 8_000)}
    for beta, seed in [(4, 7), (0, 3), (-1, 0)]:
        (alone,) = run_bandit([beta], [seed], 8_000)
        assert together[beta, seed].final_reward == pytest.approx(alone.final_reward, abs=1e-9)


def test_the_same_call_gives_the_same_rows_and_another_seed_others() -> None:
    first, second, again = (run_bandit([4], [seed], 3_200)[0] for seed in (0, 1, 0))
    assert first == again
    assert first.final_reward != second.final_reward


def test_a_vanishing_beta_is_the_mean_reward() -> None:
    zero, tiny, denormal = run_bandit([0, 1e-12, 5e-324], [0], 8_000)
    assert tiny.final_reward == pytest.approx(zero.final_reward, abs=1e-9)
    assert denormal.final_reward == zero.final_reward


def test_rows_come_in_the_order_asked_for() -> None:
    rows = run_bandit([4, 0], [2, 1], 16)
    assert [row[:2] for row in rows] == [(4.0, 2), (4.0, 1), (0.0, 2), (0.0, 1)]
    assert all(isinstance(row, BanditRow) for row in rows)


def test_json_has_the_published_keys() -> None:
    assert BanditRow(4.0, 0, 0.99, 48_000).to_json() == {
        "risk_beta": 4.0,
        "seed": 0,
        "final_reward": 0.99,
        "first_pull_above_0.9": 48_000,
    }


def test_the_arms_and_the_initial_policy_are_the_papers() -> None:
    reward_A, policy_A = arm_rewards(), initial_logits().softmax(0)
    assert reward_A.argmax() == 40
    assert policy_A.argmax() == 75
    assert reward_A[[40, 75]].tolist() == pytest.approx([1.0, 0.6], abs=1e-9)
    assert initial_logits().sum().item() == pytest.approx(0, abs=1e-12)
    assert (policy_A[75] / policy_A[0]).item() == pytest.approx(11, rel=1e-9)


def test_risk_seeking_leaves_the_wrong_peak_and_the_mean_reward_does_not() -> None:
    rows = run_bandit([0, 2, 4, 8], range(4), 88_000)
    for row in rows:
        if row.risk_beta <= 2:
            assert row.final_reward == pytest.approx(0.6, abs=0.02)
            assert row.first_pull_above_0_9 is None
        else:
            assert row.final_reward > 0.9
            assert 30_000 < row.first_pull_above_0_9 < 80_000


@pytest.mark.slow
def test_the_papers_picture_on_twenty_seeds() -> None:
    rows = run_bandit(ALL_BETAS, range(20), 400_000)
    assert len(rows) == 140
    for row in rows:
        if row.risk_beta <= 2:
            assert row.final_reward == pytest.approx(0.6, abs=0.005)
            assert row.first_pull_above_0_9 is None
        else:
            assert row.final_reward > 0.96
            assert row.first_pull_above_0_9 < 300_000


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    run_bandit([0], [0], 16 * 600, lambda done, total: seen.append((done, total)))
    assert seen == [(4_000, 9_600), (8_000, 9_600), (9_600, 9_600)]


@pytest.mark.parametrize(
    ("betas", "seeds", "pulls", "sentence"),
    [
        ([], [0], 16, "the bandit needs at least one beta and one seed: name some"),
        ([4], [], 16, "the bandit needs at least one beta and one seed: name some"),
        ([float("nan")], [0], 16, "beta is nan: choose a finite number"),
        ([float("inf")], [0], 16, "beta is inf: choose a finite number"),
        ([4], [-1], 16, "seed is -1: choose an integer from 0"),
        ([4], [0], 0, "pulls is 0: choose a positive multiple of 16"),
        ([4], [0], -16, "pulls is -16: choose a positive multiple of 16"),
        ([4], [0], 100, "pulls is 100: choose a positive multiple of 16"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_sentence(
    betas: list[float], seeds: list[int], pulls: int, sentence: str
) -> None:
    with pytest.raises(UserError) as fault:
        run_bandit(betas, seeds, pulls)
    assert str(fault.value) == sentence
