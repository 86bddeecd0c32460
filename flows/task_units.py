"""Units of a sweep in this process's flow: each a task run, its stages task runs below it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from prefect.futures import PrefectFuture

from flows.deployed_units import ASKED
from flows.run_stages import finish, stop_stages
from flows.units import fault_of, take_unit
from rsgrpo.config import Config
from rsgrpo.stages import find
from rsgrpo.study import base_policy, base_run, prepared
from rsgrpo.worker import Execution, resolve
from sweeps.ledger import Ledger, unit_lease
from sweeps.units import Outcome, Unit

CLOSE_SECONDS = 10.0


class _Running(NamedTuple):
    """A unit with its task run and when that was begun, in seconds since 1970."""

    unit: Unit
    future: PrefectFuture[Any]
    since: float


class TaskRunner:
    """A `Runner` within a flow."""

    def __init__(self, execution: Execution, ledger: Ledger) -> None:
        """Take where and how units run, how many at a time, and where their ends are recorded."""
        self.at_once = execution.at_once
        self._execution, self._ledger = execution, ledger
        self._root = resolve(execution).root
        self._running: dict[str, _Running] = {}
        self._done: list[str] = []

    def prepare(self, config: Config, evaluate_base: bool) -> None:
        """Finish the data and, where it is asked for, the base policy's evaluation.

        Raises:
            UserError: A stage failed.
        """
        place = resolve(self._execution)
        finish(place, prepared(config))
        if evaluate_base:
            finish(place, base_run(config, base_policy(config)).score)

    def start(self, unit: Unit) -> None:
        """Begin a unit in a thread of this process."""
        self._ledger.clear_stop(unit_lease(unit))
        since = time.time()
        future = take_unit.with_options(task_run_name=unit.run.name).submit(
            unit.config.model_dump(mode="json"),
            self._execution.model_dump(mode="json"),
            "trained",
            {"study": unit.study, "trial": unit.trial, "seed": unit.seed},
        )
        self._running[unit.name] = _Running(unit, future, since)
        future.add_done_callback(lambda _: self._done.append(unit.name))

    def poll(self) -> list[Outcome]:
        """Return the units that have ended."""
        return [self._outcome(self._running.pop(self._done.pop(0))) for _ in list(self._done)]

    def stop(self, units: Sequence[Unit]) -> None:
        """Ask units to end, by the lease of each: what runs beside them goes on."""
        for unit in units:
            self._ledger.ask_stop(ASKED, unit_lease(unit))

    def leave(self, units: Sequence[Unit]) -> None:
        """End those units that this process still holds; workers go on with the others."""
        here = (socket.gethostname(), os.getpid())
        ours = {held.name for held in self._ledger.held() if (held.host, held.pid) == here}
        self.stop([unit for unit in units if unit_lease(unit) in ours])

    def close(self) -> None:
        """End every stage and wait for the tasks that watch them."""
        if self._running:
            stop_stages()
        for running in self._running.values():
            running.future.wait(timeout=CLOSE_SECONDS)
        self._running.clear()

    def _outcome(self, running: _Running) -> Outcome:
        unit, future, since = running
        if find(self._root, unit.run.score):
            return Outcome(unit, "finished")
        for attempt in reversed(self._ledger.attempts()):
            if (attempt.trial, attempt.seed) == unit[1:3] and attempt.began >= since:
                return Outcome(unit, attempt.ending, attempt.reason)
        if self._ledger.stop_asked(unit_lease(unit)) is not None:
            return Outcome(unit, "stopped", ASKED)
        future.wait()  # its state is the final one only then
        return Outcome(unit, "failed", fault_of(future.state) or "its scores are not found")
