"""The bandit, all betas and seeds at once, and in a plain loop over single pulls."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import numpy as np

from rsgrpo.bandit import (
    BETAS,
    LEARNING_RATE,
    PULLS,
    PULLS_PER_UPDATE,
    SOLVED_REWARD,
    BanditRow,
    arm_rewards,
    initial_logits,
    run_bandit,
)

REPETITIONS = 9
# Short slices in turn, so that whatever else the machine does slows both alike.
SLICE_TOGETHER, SLICE_LOOP = 40_000, 16_000
TARGETS = {1: 20, 20: 50}


def run() -> list[str]:
    """Return the measured ratios at 1 and 20 seeds, each with its medians and repetitions."""
    _refuse_a_difference()
    loop: list[float] = []
    together: dict[int, list[float]] = {seeds: [] for seeds in TARGETS}
    for _ in range(REPETITIONS):
        loop.append(_seconds_of_the_loop())
        for seeds, times in together.items():
            times.append(_seconds_together(seeds))
    return [_line(seeds, median(times), median(loop)) for seeds, times in together.items()]


def pull_by_pull(beta: float, seed: int, pulls: int) -> BanditRow:
    """Train one policy a pull at a time, on the random stream that the product gives it."""
    reward_A, logits_A = arm_rewards().numpy(), initial_logits().numpy()
    stream, arms, solved = np.random.default_rng(seed), [], None
    for pull in range(1, pulls + 1):
        policy_A = _softmax(logits_A)
        arms.append(stream.choice(len(policy_A), p=policy_A))
        if len(arms) == PULLS_PER_UPDATE:
            logits_A = logits_A + LEARNING_RATE * _policy_gradient(policy_A, reward_A, arms, beta)
            arms = []
            if solved is None and _softmax(logits_A) @ reward_A > SOLVED_REWARD:
                solved = pull
    return BanditRow(beta, seed, float(_softmax(logits_A) @ reward_A), solved)


def _policy_gradient(
    policy_A: np.ndarray, reward_A: np.ndarray, arms: list[int], beta: float
) -> np.ndarray:
    gradient_A = np.zeros_like(policy_A)
    for arm, advantage in zip(arms, _advantage(reward_A[arms], beta), strict=True):
        gradient_A -= advantage * policy_A
        gradient_A[arm] += advantage
    return gradient_A / len(arms)


def _softmax(logits_A: np.ndarray) -> np.ndarray:
    weight_A = np.exp(logits_A - logits_A.max())
    return weight_A / weight_A.sum()


def _advantage(reward_N: np.ndarray, beta: float) -> np.ndarray:
    weight_N = np.exp(beta * (reward_N - reward_N.max()))
    return (weight_N / weight_N.mean() - 1) / beta


def _refuse_a_difference() -> None:
    looped = pull_by_pull(4.0, 0, SLICE_LOOP)
    (row,) = run_bandit([4.0], [0], SLICE_LOOP)
    if abs(row.final_reward - looped.final_reward) > 1e-6:
        raise AssertionError(f"the loop ends at {looped}, the product at {row}")


def _seconds_of_the_loop() -> float:
    start = perf_counter()
    pull_by_pull(4.0, 0, SLICE_LOOP)
    return (perf_counter() - start) * PULLS / SLICE_LOOP


def _seconds_together(seeds: int) -> float:
    start = perf_counter()
    run_bandit(BETAS, range(seeds), SLICE_TOGETHER)
    return (perf_counter() - start) * PULLS / SLICE_TOGETHER


def _line(seeds: int, together: float, loop: float) -> str:
    policies = len(BETAS) * seeds
    return (
        f"bandit: {loop * policies / together:.0f}x a per-pull loop at {seeds} seed(s) "
        f"(target >= {TARGETS[seeds]}x): {together:.2f} s for {len(BETAS)} betas of {PULLS:,} "
        f"pulls against {policies} x {loop:.2f} s; medians of {REPETITIONS} repetitions, scaled "
        f"from {SLICE_TOGETHER:,} and {SLICE_LOOP:,} pulls"
    )
