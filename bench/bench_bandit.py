"""The bandit, all betas and seeds at once, and in a plain loop over single pulls."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import numpy as np

from rsgrpo.bandit import BETAS, LEARNING_RATE, PULLS, arm_rewards, initial_logits, run_bandit

REPETITIONS = 3
LOOP_PULLS = 16_000
TARGETS = {1: 20, 20: 50}


def run() -> list[str]:
    """Return the measured ratios at 1 and 20 seeds, each with its medians and repetitions."""
    loop: list[float] = []
    together: dict[int, list[float]] = {seeds: [] for seeds in TARGETS}
    for _ in range(REPETITIONS):
        for seeds, times in together.items():
            loop.append(_seconds_of_the_loop())
            times.append(_seconds_together(seeds))
    return [_line(seeds, median(times), median(loop)) for seeds, times in together.items()]


def pull_by_pull(beta: float, seed: int, pulls: int) -> float:
    """Train one policy a pull at a time; return its final expected reward."""
    reward_A, logits_A = arm_rewards().numpy(), initial_logits().numpy()
    stream, arms = np.random.default_rng(seed), []
    for _ in range(pulls):
        policy_A = _softmax(logits_A)
        arms.append(stream.choice(len(policy_A), p=policy_A))
        if len(arms) == 16:
            advantage_N = _advantage(reward_A[arms], beta)
            for arm, advantage in zip(arms, advantage_N, strict=True):
                logits_A = logits_A - LEARNING_RATE * advantage * policy_A / 16
                logits_A[arm] += LEARNING_RATE * advantage / 16
            arms = []
    return float(_softmax(logits_A) @ reward_A)


def _softmax(logits_A: np.ndarray) -> np.ndarray:
    weight_A = np.exp(logits_A - logits_A.max())
    return weight_A / weight_A.sum()


def _advantage(reward_N: np.ndarray, beta: float) -> np.ndarray:
    weight_N = np.exp(beta * (reward_N - reward_N.max()))
    return (weight_N / weight_N.mean() - 1) / beta


def _seconds_of_the_loop() -> float:
    start = perf_counter()
    looped = pull_by_pull(4.0, 0, LOOP_PULLS)
    seconds = (perf_counter() - start) * PULLS / LOOP_PULLS
    (row,) = run_bandit([4.0], [0], LOOP_PULLS)
    if abs(row.final_reward - looped) > 1e-6:
        raise AssertionError(f"the loop ends at {looped}, the product at {row.final_reward}")
    return seconds


def _seconds_together(seeds: int) -> float:
    start = perf_counter()
    run_bandit(BETAS, range(seeds))
    return perf_counter() - start


def _line(seeds: int, together: float, loop: float) -> str:
    policies = len(BETAS) * seeds
    return (
        f"bandit: {loop * policies / together:.0f}x a per-pull loop at {seeds} seed(s) "
        f"(target >= {TARGETS[seeds]}x): {together:.1f} s for {len(BETAS)} betas of {PULLS:,} pulls "
        f"against {policies} x {loop:.1f} s (scaled from {LOOP_PULLS:,} pulls of one policy); "
        f"{REPETITIONS} repetitions"
    )
