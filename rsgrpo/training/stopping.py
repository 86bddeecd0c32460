"""SIGTERM in training: save a checkpoint, stop, and go on later as if nothing had been.

A checkpoint is exact only between generation steps. Asked to stop during the updates of a step, the
run finishes them; several ranks agree at the end of each step. A generation may take minutes, so
that a single process leaves it at once and saves what held when it began: no weight has changed
since, and the random state of that moment is remembered.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rsgrpo.training.checkpoints import is_whole

STOPPED_STATUS = 128 + signal.SIGTERM


class StopAskedError(BaseException):
    """SIGTERM came where the run may be left at once. Not an Exception: nothing may swallow it."""


class RandomState(NamedTuple):
    """Every generator that sampling and training draw from."""

    python: Any
    numpy: Any
    torch: torch.Tensor
    cuda: list[torch.Tensor]

    @classmethod
    def now(cls) -> RandomState:
        """Return the state of this moment."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def restore(self) -> None:
        """Make it the state of this process again."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


class Boundary(NamedTuple):
    """What the end of a generation step leaves, beside the weights."""

    random: RandomState
    tokens_seen: int


class Stopping(TrainerCallback):  # type: ignore[misc]
    """Turns SIGTERM into a checkpoint and an early end.

    Attributes:
        asked: Whether the signal has come.
    """

    def __init__(self, updates_per_step: int, processes: int) -> None:
        """Keep the units: `updates_per_step` optimizer steps make one generation step."""
        self.asked = False
        self._updates_per_step = updates_per_step
        self._alone = processes == 1
        self._may_leave = True
        self._boundary: Boundary | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM while the body runs; outside the main thread nothing is changed.

        Raises:
            SystemExit: The signal came, and what there was to save is saved.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._take)
        try:
            yield
        except StopAskedError:
            raise SystemExit(STOPPED_STATUS) from None
        finally:
            signal.signal(signal.SIGTERM, before)

    def train(self, trainer: Any, checkpoint: Path | None) -> None:
        """Train, from a checkpoint where there is one.

        Raises:
            StopAskedError: The signal came; a checkpoint of the last whole step is there.
        """
        try:
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        except StopAskedError:
            self._save_boundary(trainer)
        if self.asked:
            self._say(trainer)
            raise StopAskedError

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From here on several ranks must act alike."""
        self._may_leave = self._alone

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let a generation be left: it changes no weight."""
        self._may_leave = self._alone and state.global_step % self._updates_per_step == 0
        if self.asked and self._may_leave:
            raise StopAskedError

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From here to the end of the generation step weights change."""
        self._may_leave = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """At the end of a generation step, remember it, and stop where any rank was asked to."""
        if state.global_step % self._updates_per_step:
            return
        self._boundary = Boundary(RandomState.now(), state.num_input_tokens_seen)
        if self._agreed(args.device):
            self.asked = control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What follows can be had again from the last checkpoint."""
        self._may_leave = not self.asked

    def _take(self, number: int, frame: object) -> None:
        first, self.asked = not self.asked, True
        if first and self._may_leave:
            raise StopAskedError

    def _agreed(self, device: torch.device) -> bool:
        if self._alone:
            return self.asked
        flag = torch.tensor([int(self.asked)], device=device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def _save_boundary(self, trainer: Any) -> None:
        """Save the step that the interrupted generation followed, unless it is saved already."""
        step = trainer.state.global_step
        saved = is_whole(Path(trainer.args.output_dir) / f"checkpoint-{step}", processes=1)
        if self._boundary is None or saved:
            return
        self._boundary.random.restore()
        trainer.state.num_input_tokens_seen = self._boundary.tokens_seen
        trainer._save_checkpoint(trainer.model, trial=None)

    def _say(self, trainer: Any) -> None:
        if trainer.is_world_process_zero():
            counts = (trainer.state.global_step, trainer.args.max_steps)
            step, steps = (count // self._updates_per_step for count in counts)
            print(
                f"training: stopped at step {step} of {steps}; the same command goes on from there",
                file=sys.stderr,
                flush=True,
            )
