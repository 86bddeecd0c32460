"""What a running training says of itself: is it still worth its device, and how far is it?

The spool is read as it grows; a line that is not finished is left for the next look. A run that was
killed repeats the steps after its last checkpoint: the first record of a step counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsgrpo.analyses.diagnosis import WATCHED
from rsgrpo.config import Config
from rsgrpo.evaluation.passk import pass_at_k
from rsgrpo.stages import folder_of
from rsgrpo.tracking.spool import SPOOL_NAME, read_from
from sweeps.config import SweepConfig
from sweeps.metrics import TRAINING, parse_metric
from sweeps.units import Unit

# What must be finite: what the diagnosis of a run takes for an overflow, and the reward.
FINITE = (*WATCHED, "reward")
# The share of groups, after refilling, all of whose completions had one reward.
SILENT = "frac_reward_zero_std"
GROUP_SIZE = "training.num_generations"


class Rung(NamedTuple):
    """The mean pass@k of the prompts that the last `every` steps drew first, `step` the last."""

    step: int
    pass_at_k: float


class Look(NamedTuple):
    """How a run stands: `step` of `steps` done, tokens and seconds over all of its attempts.

    `rungs` holds every one since the start, those of the pruner's warm-up too. `stop` is the
    sentence that says why the run should be ended, None where it should go on.
    """

    step: int
    steps: int
    tokens: int
    seconds: float
    rungs: list[Rung]
    stop: str | None


class UnitWatch:
    """Reads one training run's spool as it grows."""

    def __init__(self, spool: Path, sweep: SweepConfig, config: Config) -> None:
        """Watch a run that is about to begin or to go on.

        Args:
            spool: The run's spool, which need not exist yet.
            sweep: Says what to stop for and where the rungs are.
            config: The unit's own.
        """
        self.spool = spool
        self.stops = sweep.stops
        self.steps = config.training.steps
        self._rungs = _Rungs(sweep.pruner.every, pruning_k(sweep, config))
        self._clock = _Clock()
        self._offset = 0
        self._old = spool.stat().st_size if spool.exists() else 0
        self._step = self._tokens = self._flat = 0
        self._stop: str | None = None

    def look(self) -> Look:
        """Read what was written since the last look; a sentence to stop, once said, stays."""
        for end, record in self._fresh():
            self._take(record, heard_live=end > self._old)
            self._offset = end
        seconds = self._clock.seconds()
        stop = self._stop or self._over_budget(seconds)
        self._stop = stop
        rungs = list(self._rungs.rungs)
        return Look(self._step, self.steps, self._tokens, seconds, rungs, stop)

    def _fresh(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        if self.spool.exists():
            yield from read_from(self.spool, self._offset)

    def _take(self, record: dict[str, Any] | None, heard_live: bool) -> None:
        if record is None:
            return
        self._clock.take(record, heard_live)
        if record["kind"] == "draws" and record["round"] == 0:
            self._rungs.take(record)
        elif record["kind"] == "metrics" and record["step"] > self._step:
            self._step = record["step"]
            self._tokens = max(self._tokens, _whole(record["values"].get("num_tokens")))
            self._stop = self._stop or self._fault(record["step"], record["values"])

    def _fault(self, step: int, values: dict[str, float]) -> str | None:
        stops = self.stops
        if stops.non_finite:
            for name in FINITE:
                if not math.isfinite(values.get(name, 0.0)):
                    return f"{name} is {values[name]} at step {step}"
        entropy, floor = values.get("entropy"), stops.entropy_below
        if floor is not None and entropy is not None and entropy < floor:
            return f"entropy {entropy:.4g} at step {step} is below the floor of {floor:g}"
        self._flat = self._flat + 1 if values.get(SILENT, 0.0) >= 1 else 0
        if stops.flat_reward_steps and self._flat >= stops.flat_reward_steps:
            return (
                f"every group had one reward in {self._flat} steps in a row, the last of them step "
                f"{step}: nothing is learned"
            )
        return None

    def _over_budget(self, seconds: float) -> str | None:
        stops, at = self.stops, f"at step {self._step} of {self.steps}"
        if self._step >= self.steps:
            return None
        if stops.seconds is not None and seconds > stops.seconds:
            return f"training took {seconds:.0f} s, above its {stops.seconds:g} s, {at}"
        if stops.tokens is not None and self._tokens > stops.tokens:
            return f"training saw {self._tokens:,} tokens, above its {stops.tokens:,}, {at}"
        return None


def watch_unit(root: Path, unit: Unit, sweep: SweepConfig) -> UnitWatch | None:
    """Return the watch over a unit's training; None where the base policy has still to be made."""
    training = unit.run.training
    folder = folder_of(root, training) if training else None
    return UnitWatch(folder / SPOOL_NAME, sweep, unit.config) if folder else None


def pruning_k(sweep: SweepConfig, config: Config) -> int:
    """Return the k of the rungs: the pruner's own, else the first objective's, else 1.

    It counts at most the completions of a group, of the smallest group where trials differ in it:
    trials are compared at one k.
    """
    k = sweep.pruner.k
    if k is None:
        metric = parse_metric(sweep.objectives[0].metric)
        k = metric.k or (1 if metric.name.startswith(TRAINING) else max(config.evaluation.ks))
    return min(k, config.training.num_generations, *_group_sizes(sweep))


def _group_sizes(sweep: SweepConfig) -> list[int]:
    varied = sweep.space.get(GROUP_SIZE)
    if varied is None:
        return []
    low = [] if varied.low is None else [int(varied.low)]
    return [*(int(value) for value in varied.values), *low]


class _Rungs:
    """Collects pass@k of each step's first draws and closes a rung every few steps."""

    def __init__(self, every: int, k: int) -> None:
        self.every, self.k = every, k
        self.rungs: list[Rung] = []
        self._last = 0
        self._values: list[float] = []

    def take(self, draw: dict[str, Any]) -> None:
        step, n, correct_P = draw["step"], draw["n"], draw["correct"]
        if step <= self._last or not correct_P:
            return
        self._last = step
        passk_PK = pass_at_k(correct_P, [n] * len(correct_P), [min(self.k, n)])
        self._values.append(float(np.mean(passk_PK)))
        if step % self.every == 0:
            self.rungs.append(Rung(step, math.fsum(self._values) / len(self._values)))
            self._values = []


class _Clock:
    """Adds up how long a run's attempts took, by their own host's clock.

    An attempt that was heard since the watch began lasts until now; one that was not may have been
    killed long ago, and lasts until its last record.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._closed = 0.0
        self._began: float | None = None
        self._last = 0.0
        self._heard: float | None = None

    def take(self, record: dict[str, Any], live: bool) -> None:
        if record["kind"] == "start":
            self._close()
            self._began = self._last = record["time"] / 1000
        elif self._began is not None:
            self._last = max(self._last, record.get("time", 0) / 1000)
        if "time" in record:  # draws have none: they came some time after the last that has
            self._heard = self._now() if live else None
        if record["kind"] == "end":
            self._close()

    def seconds(self) -> float:
        open_ = 0.0 if self._began is None else self._last - self._began
        unheard = 0.0 if self._heard is None or self._began is None else self._now() - self._heard
        return self._closed + open_ + unheard

    def _close(self) -> None:
        if self._began is not None:
            self._closed += self._last - self._began
        self._began = None


def _whole(value: float | None) -> int:
    return int(value) if value is not None and math.isfinite(value) else 0
