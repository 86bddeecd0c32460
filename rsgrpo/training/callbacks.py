"""What a training run says of itself: metrics and tables to its spool, progress to the screen."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rsgrpo.advantages import grpo, rs_grpo
from rsgrpo.analyses.advantage_shape import advantage_shape, shape_table
from rsgrpo.tracking.spool import Spool
from rsgrpo.training.machine import MachineWatch

if TYPE_CHECKING:
    from rsgrpo.training.trainer import Draws

# TRL's and the trainer's names -> the names that are stored; what is not listed keeps its own.
STORED_NAMES = {
    "reward": "filtered_reward",
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "truncated_share",
    "advantage/mean_abs": "mean_abs_advantage",
    "dynamic_sampling/kept_share": "kept_share",
    "dynamic_sampling/rounds": "refill_rounds",
    "dynamic_sampling/cap_reached": "refill_cap_reached",
}


class SpoolCallback(TrainerCallback):  # type: ignore[misc]
    """Writes each logging step's metrics to the run's spool, counted in generation steps.

    Now and then the machine's figures are among them: one record for each step.
    """

    def __init__(
        self, spool: Spool, updates_per_step: int, machine: MachineWatch | None = None
    ) -> None:
        """Keep the spool; `updates_per_step` optimizer steps make one generation step."""
        self.spool = spool
        self.updates_per_step = updates_per_step
        self.machine = machine or MachineWatch()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the numbers of one step."""
        numbers = {
            STORED_NAMES.get(name, name.removeprefix("first_pass/")): value
            for name, value in (logs or {}).items()
            if isinstance(value, int | float)
        }
        if torch.cuda.is_available():
            numbers["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if "loss" in numbers:
            numbers |= self.machine.figures()
            self.spool.metrics(state.global_step // self.updates_per_step, numbers)


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Prints one line every few steps: step, reward, rate and time left."""

    def __init__(self, updates_per_step: int, every_seconds: float = 10.0) -> None:
        """Keep the units: `updates_per_step` optimizer steps make one generation step."""
        self.updates_per_step = updates_per_step
        self.every_seconds = every_seconds
        self._began = self._printed = time.monotonic()
        self._first = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember where a resumed run starts, so that its rate is its own."""
        self._began, self._first = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print the line when it is time for one."""
        now = time.monotonic()
        done = state.global_step - self._first
        finished = state.global_step >= state.max_steps
        reward = (logs or {}).get("first_pass/reward")
        if reward is not None and (finished or now - self._printed >= self.every_seconds):
            left = (now - self._began) / max(done, 1) * (state.max_steps - state.global_step)
            step, steps = (n // self.updates_per_step for n in (state.global_step, state.max_steps))
            print(
                f"training: step {step} of {steps}, reward {reward:.3f}, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            self._printed = now


class AdvantageShapeRecorder:
    """Every few steps, both advantages of the same groups by accuracy, as a table in the spool."""

    def __init__(self, spool: Spool, every: int, updates_per_step: int) -> None:
        """Record the first and each `every`-th generation step."""
        self.spool = spool
        self.every = every
        self.updates_per_step = updates_per_step

    def __call__(self, global_step: int, rewards_PN: torch.Tensor, risk_beta: float) -> None:
        """Record the groups of the unfiltered first pass of one step."""
        step = global_step // self.updates_per_step + 1
        if step == 1 or step % self.every == 0:
            shape = advantage_shape(
                rewards_PN.cpu().numpy(),
                grpo(rewards_PN).cpu().numpy(),
                rs_grpo(rewards_PN, risk_beta).cpu().numpy(),
            )
            self.spool.table(
                "advantage_shape", step, {"risk_beta": risk_beta, **shape_table(shape)}
            )


class DrawRecorder:
    """Every prompt that was drawn, with its number of correct samples, as a record of the spool."""

    def __init__(self, spool: Spool, problem_ids: Sequence[str], updates_per_step: int) -> None:
        """Keep the spool and the id of each row of the training set."""
        self.spool = spool
        self.problem_ids = problem_ids
        self.updates_per_step = updates_per_step

    def __call__(self, draws: Draws) -> None:
        """Record one round; a sample is correct where its reward is above 0."""
        self.spool.draws(
            draws.global_step // self.updates_per_step + 1,
            draws.round,
            draws.rewards_PN.shape[1],
            [self.problem_ids[index] for index in draws.prompts_P],
            (draws.rewards_PN > 0).sum(1).tolist(),
        )
