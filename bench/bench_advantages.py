"""The advantage of 8,192 rewards in 512 groups, in one call and in a loop over groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from rsgrpo.advantages import rs_grpo

GROUPS, SAMPLES, BETA, REPETITIONS, TARGET = 512, 16, 2.0, 31, 50
CALLS = 20


def run() -> list[str]:
    """Return the measured ratios, each with its medians and number of repetitions."""
    rewards_PN = torch.rand(GROUPS, SAMPLES, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(in_one_call(rewards_PN), group_by_group(rewards_PN))
    torch.testing.assert_close(in_one_call(rewards_PN), group_by_group_in_floats(rewards_PN))
    one_call, tensor_loop, float_loop = _interleaved_medians(rewards_PN)
    setting = (
        f"{GROUPS * SAMPLES:,} rewards in {GROUPS} groups, medians of {REPETITIONS} repetitions"
    )
    return [
        f"advantage: {tensor_loop / one_call:.0f}x a per-group loop of torch operations "
        f"(target >= {TARGET}x): {one_call * 1e3:.2f} ms against {tensor_loop * 1e3:.1f} ms; "
        f"{setting}",
        f"advantage: {float_loop / one_call:.0f}x a per-group loop of Python floats "
        f"(no target): {one_call * 1e3:.2f} ms against {float_loop * 1e3:.1f} ms; {setting}",
    ]


def in_one_call(rewards_PN: torch.Tensor) -> torch.Tensor:
    """Return the advantages as the trainer computes them."""
    return rs_grpo(rewards_PN, BETA)


def group_by_group(rewards_PN: torch.Tensor) -> torch.Tensor:
    """Return the same advantages from a loop over groups, with none of the checks."""
    rows = []
    for reward_N in rewards_PN:
        utility_N = torch.expm1(BETA * (reward_N - reward_N.max())) / BETA
        mean = utility_N.mean()
        rows.append((utility_N - mean) / (1 + BETA * mean))
    return torch.stack(rows)


def group_by_group_in_floats(rewards_PN: torch.Tensor) -> torch.Tensor:
    """Return the same advantages from a loop over groups and samples without torch."""
    rows = []
    for rewards in rewards_PN.tolist():
        best = max(rewards)
        utilities = [math.expm1(BETA * (reward - best)) / BETA for reward in rewards]
        mean = sum(utilities) / len(utilities)
        rows.append([(utility - mean) / (1 + BETA * mean) for utility in utilities])
    return torch.tensor(rows)


def _interleaved_medians(rewards_PN: torch.Tensor) -> list[float]:
    ways = ((in_one_call, CALLS), (group_by_group, 1), (group_by_group_in_floats, 1))
    rounds = [[_seconds(*way, rewards_PN) for way in ways] for _ in range(REPETITIONS)]
    return [median(times) for times in zip(*rounds, strict=True)]


def _seconds(
    way: Callable[[torch.Tensor], torch.Tensor], calls: int, rewards_PN: torch.Tensor
) -> float:
    start = perf_counter()
    for _ in range(calls):
        way(rewards_PN)
    return (perf_counter() - start) / calls
