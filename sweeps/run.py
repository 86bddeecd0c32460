"""A coordinator: takes trials, has their units run, looks at them, and tells what they gave.

Several may work on one study at once. What one of them knows beyond the storage, the ledger and the
stages' folders is lost without harm: killed at any line, another goes on from there.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Literal, NamedTuple, TypeVar

from rsgrpo.errors import UserError
from sweeps.at_work import Seed, TrialAtWork, Watch
from sweeps.claims import claim, failure_fault, is_over
from sweeps.journal import record_end, what_is_left
from sweeps.ledger import unit_lease
from sweeps.provenance import Provenance, provenance
from sweeps.signals import Asked, listening
from sweeps.storage import persist
from sweeps.study import Opened
from sweeps.telling import mark_ending, tell_failed, tell_pruned, tell_values
from sweeps.units import Outcome, Runner, StoppedError, Unit
from sweeps.values import base_metrics, objective_values, unit_metrics
from sweeps.watch import watch_unit

POLL_SECONDS = 0.3
LOOK_SECONDS = 1.0
CLAIM_SECONDS = 2.0
STOP_SECONDS = 10.0

Answer = TypeVar("Answer")
Measure = Callable[[Unit], Mapping[str, float]]
MakeWatch = Callable[[Unit], Watch | None]


class Result(NamedTuple):
    """How a coordinator ended.

    `complete`: every trial has ended; `stopped`: it was asked to, by `sweep stop`; `interrupted`:
    by Ctrl-C or SIGTERM, the command's exit status is 130; `failures`: too many trials have failed.
    """

    ending: Literal["complete", "stopped", "interrupted", "failures"]
    reason: str = ""


class _Stopping(Exception):
    """The coordinator was asked to stop while it waited for the storage."""


def run_sweep(
    opened: Opened,
    runner: Runner,
    *,
    measure: Measure | None = None,
    watch: MakeWatch | None = None,
    say: Callable[[str], None] = print,
) -> Result:
    """Run a study's trials until all have ended, or until it is stopped.

    Trials that are under way when it is stopped go on from their checkpoints with the next call.

    Args:
        opened: The study.
        runner: Has the units run.
        measure: Returns a finished unit's metrics; read off its folders by default.
        watch: Returns what looks at a unit's training, None where nothing does; by default its
            spool is read.
        say: Takes each line for the user.

    Raises:
        UserError: The data or the base policy cannot be made, or the sweep is being stopped.
        KeyboardInterrupt: A second signal came.
    """
    measure = measure or partial(unit_metrics, opened.root)
    watch = watch or (lambda unit: watch_unit(opened.root, unit, opened.plan.sweep))
    with listening() as asked:
        coordinator = Coordinator(opened, runner, measure, watch, say, asked)
        try:
            with coordinator.presence():
                return coordinator.run()
        except KeyboardInterrupt:
            if asked.at_once:  # nothing was under way that must be told
                return Result("interrupted", "it was interrupted while it was prepared")
            raise


class Coordinator:
    """The loop over trials and their units. One for each call of `run_sweep`."""

    def __init__(
        self,
        opened: Opened,
        runner: Runner,
        measure: Measure,
        watch: MakeWatch,
        say: Callable[[str], None],
        asked: Asked,
    ) -> None:
        """Keep what `run_sweep` was given."""
        self._opened, self._runner = opened, runner
        self._measure, self._watch, self._say, self._asked = measure, watch, say, asked
        self._sweep = opened.plan.sweep
        self._trials: dict[int, TrialAtWork] = {}
        self._ended: list[Outcome] = []  # of units, not yet taken
        self._base: Mapping[str, float] = {}
        self._next_look = self._next_claim = 0.0
        self._adopts = bool(getattr(runner, "adopts", False))
        self._made_with: Provenance

    def presence(self) -> ExitStack:
        """Be seen in the ledger, and take back an old request to stop.

        Raises:
            UserError: Others are being stopped just now.
        """
        ledger, stack = self._opened.ledger, ExitStack()
        with ledger.alone():
            reason = ledger.stop_asked()
            if reason is not None and any(held.alive for held in ledger.held()):
                raise UserError(f"the sweep is being stopped ({reason}): wait until all have ended")
            ledger.clear_stop()
            for held in ledger.held():
                if held.name.startswith("sweep-"):
                    ledger.bury(held.name)
            presence = ledger.take(f"sweep-{socket.gethostname()}-{os.getpid()}")
        if presence:
            stack.callback(presence.release)
        stack.callback(self._release_all)
        return stack

    def run(self) -> Result:
        """Run until everything has ended or a stop is asked for."""
        needs_base = any(bound.needs_base for bound in self._sweep.constraints)
        config = self._opened.plan.config
        try:
            self._runner.prepare(config, needs_base)
        except StoppedError as fault:
            return Result("stopped", str(fault))
        if needs_base:
            self._base = base_metrics(self._opened.root, config)
        self._made_with = provenance(self._opened.ledger, self._opened.root, config)
        self._asked.at_once = False
        try:
            result = self._work()
        except KeyboardInterrupt:  # whoever asks twice waits for nothing: all processes end with us
            raise
        except BaseException:
            self._runner.close()
            raise
        self._runner.close()
        return result

    def _work(self) -> Result:
        while True:
            if reason := self._stop_reason():
                return self._stop(reason)
            try:
                moved = self._turn()
                if not self._trials and not moved and (result := self._over()):
                    return result
            except _Stopping:
                continue
            if not moved:
                time.sleep(POLL_SECONDS)

    def _turn(self) -> bool:
        """Do whatever is due; return whether anything has happened."""
        ended = self._runner.poll()
        self._ended += ended
        while self._ended:
            self._take(self._ended[0])
            del self._ended[0]
        self._observe()
        over = [trial for trial in self._trials.values() if trial.is_over]
        for trial in over:
            self._tell(trial)
        return self._begin() or bool(ended or over)

    def _take(self, outcome: Outcome) -> None:
        trial = self._trials[outcome.unit.trial]
        seed = trial.seeds[outcome.unit.seed]
        if outcome.ending == "stopped" and trial.end is None and self._stop_reason():
            raise _Stopping  # whoever ran it has heard of the stop first
        if outcome.ending == "finished":
            self._opened.ledger.bury(unit_lease(outcome.unit))
            try:
                seed.metrics = self._measure(outcome.unit)
            except UserError as fault:
                outcome = Outcome(outcome.unit, "failed", str(fault))
        trial.take(outcome)
        if outcome.ending in ("killed", "failed"):
            self._say(f"{outcome.unit.name}: {outcome.reason}")
        if trial.observe(prunes=False) or trial.end:
            self._end_early(trial)

    def _observe(self) -> None:
        """Look at what runs, a little less often than units are polled."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        prunes = self._sweep.pruner.name != "none"
        for trial in self._trials.values():
            if self._persist(partial(trial.observe, prunes)):
                self._end_early(trial)

    def _end_early(self, trial: TrialAtWork) -> None:
        """Stop what still runs of a trial; its reason is noted first, where it must stand."""
        assert trial.end is not None
        running = [seed.unit for seed in trial.running]
        if trial.end.state == "abandoned":
            self._runner.leave(running)
            return
        if trial.end.state == "pruned" and running:
            self._persist(partial(mark_ending, trial.claim.trial, trial.end.reason))
        self._runner.stop(running)

    def _tell(self, trial: TrialAtWork) -> None:
        number, lease = trial.claim.number, trial.claim.lease
        lease.beat()
        if lease.lost:
            trial.abandon()
        else:
            try:
                self._persist(partial(self._tell_study, trial))
            except UserError as fault:  # a seed lacks a metric that is sought
                trial.take(Outcome(next(iter(trial.seeds.values())).unit, "failed", str(fault)))
                self._persist(partial(self._tell_study, trial))
        self._say(f"trial {number}: {self._ending(trial)}")
        del self._trials[number]
        lease.release()

    def _ending(self, trial: TrialAtWork) -> str:
        if trial.end:
            return trial.end.reason
        metrics = {seed: one.metrics for seed, one in trial.seeds.items()}
        values = objective_values(metrics, self._sweep)
        named = zip(self._sweep.objectives, values, strict=True)
        texts = [f"{objective.metric} {value:.4g}" for objective, value in named]
        return f"{', '.join(texts)} (mean of {len(metrics)} seeds)"

    def _tell_study(self, trial: TrialAtWork) -> None:
        opened, stored, end = self._opened, trial.claim.trial, trial.end
        account = what_is_left(opened.root, trial)
        record_end(opened, trial, account)  # first: a trial that is told is never looked at again
        if end is None:
            metrics = {seed: one.metrics for seed, one in trial.seeds.items()}
            tell_values(opened, stored, metrics, self._base, account)
        elif end.state == "pruned":
            tell_pruned(opened, stored, end.reason, account)
        else:
            tell_failed(opened, stored, end.reason, account)

    def _begin(self) -> bool:
        """Start what there is room for; claim a trial where no seed waits."""
        begun = False
        while self._room() > 0:
            seed = next(
                (s for t in self._trials.values() for s in t.waiting if self._free(s)), None
            )
            if seed is not None:
                self._start(seed)
            elif not self._claim():
                break
            begun = True
        return begun

    def _room(self) -> int:
        """Return how many units may be begun; what another's worker runs of our trials counts."""
        taken = sum(len(trial.running) for trial in self._trials.values())
        waiting = [seed for trial in self._trials.values() for seed in trial.waiting]
        return self._runner.at_once - taken - sum(not self._free(seed) for seed in waiting)

    def _free(self, seed: Seed) -> bool:
        """Whether nobody is at work on a unit: a worker may have it from a coordinator now gone.

        A runner that finds such a unit's worker again may begin it at any time.
        """
        return self._adopts or not self._opened.ledger.is_held(unit_lease(seed.unit))

    def _start(self, seed: Seed) -> None:
        seed.standing = "running"
        seed.watch = seed.watch or self._watch(seed.unit)
        self._runner.start(seed.unit)

    def _claim(self) -> bool:
        if time.monotonic() < self._next_claim:
            return False
        taken = self._persist(partial(claim, self._opened, self._made_with))
        if taken is None:
            self._next_claim = time.monotonic() + CLAIM_SECONDS
            return False
        minimized = self._sweep.objectives[0].direction == "minimize"
        trial = TrialAtWork(taken, self._sweep.retries, minimized)
        self._trials[taken.number] = trial
        if trial.end and self._adopts:  # who was ending it is gone; its units may not know
            self._runner.stop(taken.units)
        return True

    def _over(self) -> Result | None:
        """Return the end of the sweep; None while others still have trials that may become ours."""
        if self._persist(partial(is_over, self._opened)):
            return Result("complete")
        fault = self._persist(partial(failure_fault, self._opened))
        others = any(h.alive and h.name.startswith("trial-") for h in self._opened.ledger.held())
        return Result("failures", fault) if fault and not others else None

    def _stop_reason(self) -> str | None:
        if self._asked.signal is not None:
            return f"{self._asked.signal.name} was received"
        return self._opened.ledger.stop_asked()

    def _stop(self, reason: str) -> Result:
        """End every unit, its checkpoint saved; the trials stay as they are, to be gone on with."""
        running = [seed.unit for trial in self._trials.values() for seed in trial.running]
        self._runner.stop(running)
        names = {unit.name for unit in running} - {one.unit.name for one in self._ended}
        end = time.monotonic() + STOP_SECONDS
        while names and time.monotonic() < end:
            names -= {outcome.unit.name for outcome in self._runner.poll()}
            time.sleep(0.05)
        ending: Literal["interrupted", "stopped"] = (
            "interrupted" if self._asked.signal is not None else "stopped"
        )
        return Result(ending, reason)

    def _release_all(self) -> None:
        for trial in self._trials.values():
            trial.claim.lease.release()

    def _persist(self, operation: Callable[[], Answer]) -> Answer:
        try:
            return persist(operation, self._say, lambda: self._stop_reason() is None)
        except Exception:
            if self._stop_reason():
                raise _Stopping from None
            raise
