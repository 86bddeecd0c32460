"""Units of a sweep in this process's flow: each a task run, its stages task runs below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect.futures import PrefectFuture

from flows.run_stages import finish, stop_stages
from flows.units import fault_of, take_unit
from rsgrpo.config import Config
from rsgrpo.stages import find
from rsgrpo.study import base_policy, base_run, prepared
from rsgrpo.worker import Execution, resolve
from sweeps.ledger import Ledger
from sweeps.units import Outcome, Unit

CLOSE_SECONDS = 10.0


class TaskRunner:
    """A `Runner` within a flow; asked to stop some of its units it stops them all."""

    def __init__(self, execution: Execution, ledger: Ledger) -> None:
        """Take where and how units run, how many at a time, and where their ends are recorded."""
        self.at_once = execution.at_once
        self._execution, self._ledger = execution, ledger
        self._root = resolve(execution).root
        self._running: dict[str, tuple[Unit, PrefectFuture[Any]]] = {}
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
        future = take_unit.with_options(task_run_name=unit.run.name).submit(
            unit.config.model_dump(mode="json"),
            self._execution.model_dump(mode="json"),
            "trained",
            {"study": unit.study, "trial": unit.trial, "seed": unit.seed},
        )
        self._running[unit.name] = (unit, future)
        future.add_done_callback(lambda _: self._done.append(unit.name))

    def poll(self) -> list[Outcome]:
        """Return the units that have ended."""
        return [self._outcome(*self._running.pop(self._done.pop(0))) for _ in list(self._done)]

    def stop(self, units: Sequence[Unit]) -> None:
        """End every stage of this process."""
        if units:
            stop_stages()

    def leave(self, units: Sequence[Unit]) -> None:
        """End every stage of this process: a process that slept for so long does so once."""
        self.stop(units)

    def close(self) -> None:
        """End every stage and wait for the tasks that watch them."""
        if self._running:
            stop_stages()
        for _, future in self._running.values():
            future.wait(timeout=CLOSE_SECONDS)
        self._running.clear()

    def _outcome(self, unit: Unit, future: PrefectFuture[Any]) -> Outcome:
        if find(self._root, unit.run.score):
            return Outcome(unit, "finished")
        attempts = [a for a in self._ledger.attempts() if (a.trial, a.seed) == unit[1:3]]
        if attempts:
            return Outcome(unit, attempts[-1].ending, attempts[-1].reason)
        future.wait()  # its state is the final one only then
        return Outcome(unit, "failed", fault_of(future.state) or "its scores are not found")
