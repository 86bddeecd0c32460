"""A trial that a coordinator holds: how its seeds stand, and whether it is still worth running."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from sweeps.claims import Claim
from sweeps.units import Outcome, Unit
from sweeps.watch import Look

Standing = Literal["waiting", "running", "finished", "ended"]


class Watch(Protocol):
    """Looks at a unit's training."""

    def look(self) -> Look:
        """Return how it stands now."""


class End(NamedTuple):
    """Why a trial is ended before all of its seeds are done."""

    state: Literal["pruned", "failed", "abandoned"]
    reason: str


class Seed:
    """One seed of a trial at work.

    Attributes:
        unit: What is run.
        standing: Whether it waits for room, runs, is finished, or ended otherwise.
        killed: How often its process was killed.
        metrics: What it gave, once it is finished.
        watch: Looks at its training, from its start on.
        seen: The last look.
    """

    def __init__(self, unit: Unit) -> None:
        """Begin with a unit that waits."""
        self.unit = unit
        self.standing: Standing = "waiting"
        self.killed = 0
        self.metrics: Mapping[str, float] = {}
        self.watch: Watch | None = None
        self.seen: Look | None = None

    def look(self) -> str | None:
        """Look at the training; return why it should be ended, None where it should go on."""
        if self.watch is not None:
            self.seen = self.watch.look()
        return self.seen.stop if self.seen else None


class TrialAtWork:
    """A claimed trial with its seeds.

    Attributes:
        claim: The trial.
        seeds: Each one's state.
        end: Why the trial is being ended early, None while it is not.
    """

    def __init__(self, claim: Claim, retries: int, minimized: bool) -> None:
        """Take a claimed trial.

        Args:
            claim: The trial; one that was being ended goes on being ended.
            retries: How often a seed whose process was killed is begun again.
            minimized: Whether the study's one objective is minimized: rungs are told negated then,
                because pruners read them in the study's direction.
        """
        self.claim = claim
        self.seeds = {unit.seed: Seed(unit) for unit in claim.units}
        self.end = End("pruned", claim.end_reason) if claim.end_reason else None
        self._retries, self._sign = retries, -1.0 if minimized else 1.0
        self._told = -1

    @property
    def waiting(self) -> list[Seed]:
        """The seeds that may be started."""
        return [] if self.end else [s for s in self.seeds.values() if s.standing == "waiting"]

    @property
    def running(self) -> list[Seed]:
        """The seeds that run."""
        return [seed for seed in self.seeds.values() if seed.standing == "running"]

    @property
    def is_over(self) -> bool:
        """Whether it can be told: all seeds are finished, or it is ended and none runs."""
        if self.end:
            return not self.running
        return all(seed.standing == "finished" for seed in self.seeds.values())

    def take(self, outcome: Outcome) -> None:
        """Take the end of one of its units."""
        seed = self.seeds[outcome.unit.seed]
        seed.standing = "finished" if outcome.ending == "finished" else "ended"
        if outcome.ending == "killed" and seed.killed < self._retries:
            seed.killed += 1
            seed.standing = "waiting"
        elif outcome.ending in ("killed", "failed"):
            again = f" (for the {seed.killed + 1}. time)" if seed.killed else ""
            self._finish("failed", f"seed {seed.unit.seed}: {outcome.reason}{again}")
        elif outcome.ending == "stopped" and self.end is None:
            reason = outcome.reason or "it was cancelled"
            again = "`rsgrpo sweep resume --failed` goes on from its checkpoint"
            self._finish("failed", f"seed {seed.unit.seed}: {reason}: {again}")

    def observe(self, prunes: bool) -> bool:
        """Look at the seeds that run; return whether the trial is to be ended now."""
        if self.end:
            return False
        if self.claim.lease.lost:
            self.abandon()
            return True
        for seed in self.seeds.values():
            if seed.standing in ("running", "finished") and (reason := seed.look()):
                self._finish("pruned", f"seed {seed.unit.seed}: {reason}")
                return True
        if prunes and (reason := self._trails()):
            self._finish("pruned", reason)
        return self.end is not None

    def abandon(self) -> None:
        """Leave the trial to whoever has taken its lease."""
        self.end = End("abandoned", "its lease was lost: this process was silent for too long")

    def _finish(self, state: Literal["pruned", "failed", "abandoned"], reason: str) -> None:
        self.end = self.end or End(state, reason)

    def _trails(self) -> str | None:
        """Report the rungs that all begun seeds have reached; say whether Optuna gives up on it."""
        for step, value in self._rungs():
            if step <= self._told or not math.isfinite(value):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a rung that an earlier holder has reported
                self.claim.trial.report(self._sign * value, step)
            trails = self.claim.trial.should_prune()
            self._told = step  # not before: a storage that is away here is asked again
            if trails:
                return f"it trails the other trials: pass@k is {value:.4g} at step {step}"
        return None

    def _rungs(self) -> list[tuple[int, float]]:
        begun = [s.seen.rungs for s in self.seeds.values() if s.seen and s.standing != "waiting"]
        if not begun:
            return []
        together = zip(*begun, strict=False)  # as far as the slowest has come
        return [
            (rungs[0].step, math.fsum(rung.pass_at_k for rung in rungs) / len(rungs))
            for rungs in together
        ]
