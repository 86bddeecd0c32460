"""Trials whose units end at once, to have a coordinator's own work by itself.

`python -m tests.sweeps.empty_trials STORAGE NAME ROOT` runs one coordinator over a study of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsgrpo.config import Config
from sweeps.config import SweepConfig
from sweeps.run import Result, run_sweep
from sweeps.space import Sweep
from sweeps.study import Opened, load
from sweeps.units import Ending, Outcome, Unit

BETAS = [round(0.5 * step, 1) for step in range(1, 41)]


def plan(trials: int | None, sampler: str = "random", **sweep: Any) -> Sweep:
    """A sweep over beta and the learning rate, two objectives."""
    space: dict[str, Any] = {
        "training.risk_beta": {"low": 0.5, "high": 20.0, "step": 0.5},
        "training.learning_rate": {"low": 1e-6, "high": 1e-3, "log": True},
    }
    if sampler == "grid":
        space["training.learning_rate"] = {"values": [1e-6 * k for k in range(1, 31)]}
    settings = {
        "space": space,
        "trials": trials,
        "sampler": {"name": sampler},
        "objectives": ["pass_at_1", "pass_at_4"],
    }
    return Sweep(Config(), SweepConfig.model_validate({**settings, **sweep}))


class EmptyRunner:
    """Runs units as a stage does: what is finished is a file, and is not done again."""

    def __init__(self, folder: Path, endings: Sequence[tuple[Ending, str]] = ()) -> None:
        self.at_once = 1
        self._folder = folder
        self._endings = list(endings)
        self._ended: list[Outcome] = []
        folder.mkdir(parents=True, exist_ok=True)

    def prepare(self, config: Config, evaluate_base: bool) -> None:
        pass

    def start(self, unit: Unit) -> None:
        ending, reason = self._endings.pop(0) if self._endings else ("finished", "")
        if ending == "finished" and not (self._folder / unit.name).exists():
            with (self._folder / unit.name).open("a") as file:
                file.write(f"{os.getpid()}\n")
        self._ended.append(Outcome(unit, ending, reason))

    def poll(self) -> list[Outcome]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self, units: Sequence[Unit]) -> None:
        pass

    def leave(self, units: Sequence[Unit]) -> None:
        self.stop(units)

    def close(self) -> None:
        pass


def measure(unit: Unit) -> dict[str, float]:
    """A unit's metrics, by its beta and seed."""
    beta = unit.config.training.risk_beta
    assert isinstance(beta, float)
    return {"pass_at_1": 1 / (1 + beta), "pass_at_4": beta / (21 + unit.seed)}


def run(opened: Opened, runner: EmptyRunner | None = None, say: Any = lambda line: None) -> Result:
    runner = runner or EmptyRunner(opened.root / "units")
    return run_sweep(opened, runner, measure=measure, watch=lambda unit: None, say=say)


def states(opened: Opened) -> list[str]:
    """The states of a study's trials in order."""
    return [trial.state.name for trial in opened.study.trials]


def runs_of_units(root: Path) -> dict[str, int]:
    """How often each unit was run."""
    files = (root / "units").iterdir()
    return {file.name: len(file.read_text().splitlines()) for file in files}


if __name__ == "__main__":
    storage, name, root = sys.argv[1:]
    print(run(load(storage, name, Path(root))).ending)
