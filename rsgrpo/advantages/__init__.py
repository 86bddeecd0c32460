"""Estimators of the advantage: rewards_PN -> advantages_PN, one file per paper, one registry."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rsgrpo.advantages.dr_grpo import dr_grpo
from rsgrpo.advantages.groups import has_signal
from rsgrpo.advantages.grpo import grpo
from rsgrpo.advantages.rs_grpo import rs_grpo

Estimator = Callable[[torch.Tensor, float], torch.Tensor]

ESTIMATORS: dict[str, Estimator] = {
    "rs_grpo": rs_grpo,
    "grpo": lambda rewards_PN, _risk_beta: grpo(rewards_PN),
    "dr_grpo": lambda rewards_PN, _risk_beta: dr_grpo(rewards_PN),
}

__all__ = ["ESTIMATORS", "Estimator", "dr_grpo", "grpo", "has_signal", "rs_grpo"]
