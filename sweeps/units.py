"""Units: one (trial, seed) each; what runs them is a `Runner`, here or on workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.study import Run, base_policy, trained_run

Ending = Literal["finished", "failed", "killed", "stopped"]


class StoppedError(UserError):
    """The sweep was asked to stop while what its units share was still being made."""


class Unit(NamedTuple):
    """One seed of a trial; the `training` branch of `config` holds its own settings and seed."""

    study: str
    trial: int
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """What its lease, log lines and flow run are called."""
        return f"trial{self.trial}-seed{self.seed}"

    @property
    def run(self) -> Run:
        """Its training and evaluation."""
        return trained_run(self.config, base_policy(self.config))


class Outcome(NamedTuple):
    """A unit that is over.

    `failed` is a fault that the same command would meet again, `killed` one that it would not (the
    process is gone), `stopped` was asked for. `reason` is the sentence, empty where it is finished.
    """

    unit: Unit
    ending: Ending
    reason: str = ""


class Runner(Protocol):
    """Has units run; no method but `prepare` and `close` may block for long.

    `at_once` is how many of them at a time. One whose `start` finds a unit again that runs
    elsewhere since before this process says so by an attribute `adopts`.
    """

    at_once: int

    def prepare(self, config: Config, evaluate_base: bool) -> None:
        """Finish the data and the base policy that units share, and perhaps its evaluation.

        Raises:
            UserError: A stage failed.
            StoppedError: The sweep's ledger was asked to stop meanwhile.
        """

    def start(self, unit: Unit) -> None:
        """Begin a unit, or go on with it where another process left it."""

    def poll(self) -> list[Outcome]:
        """Return the units that have ended since the last call."""

    def stop(self, units: Sequence[Unit]) -> None:
        """Ask units to save a checkpoint and end; `poll` returns them as `stopped`."""

    def leave(self, units: Sequence[Unit]) -> None:
        """Be done with units whose trial another coordinator has taken; `poll` returns `stopped`.

        What runs here ends; what runs elsewhere goes on, for that coordinator finds it there.
        """

    def close(self) -> None:
        """End everything that runs, politely, within 10 seconds."""
