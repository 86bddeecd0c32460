"""Units on this machine: each in a process of its own, which ends with this one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rsgrpo.config import Config
from rsgrpo.errors import UserError, explain_os_error
from rsgrpo.launch import Launch
from rsgrpo.nodes import Node
from rsgrpo.processes import (
    DEFAULT_LAUNCH,
    STOP_SECONDS,
    Child,
    check,
    end_processes,
    end_stage,
    last_progress,
    start_stage,
)
from rsgrpo.stages import REFUSED, find
from rsgrpo.study import base_policy, base_run, prepared
from sweeps.journal import run_tokens
from sweeps.ledger import Lease, Ledger
from sweeps.units import Ending, Outcome, StoppedError, Unit

PREPARE_POLL = 0.2
SAY_SECONDS = 5.0


class _Running:
    """A unit under way: its process, its lease, and whether it was asked to stop."""

    def __init__(self, unit: Unit, child: Child, lease: Lease) -> None:
        self.unit, self.child, self.lease = unit, child, lease
        self.asked = False
        self.ending: threading.Thread | None = None
        self.said = 0.0

    def stop(self) -> None:
        """Ask its process to end, and see to it that it does, without waiting here."""
        if self.asked:
            return
        self.asked = True
        process = self.child.process
        self.ending = threading.Thread(
            target=end_processes, args=([process], STOP_SECONDS), daemon=True
        )
        self.ending.start()

    def say(self) -> None:
        """Tell the ledger how far it is, every few seconds."""
        if time.monotonic() - self.said > SAY_SECONDS:
            self.said = time.monotonic()
            self.lease.say(progress=last_progress(self.child))


class LocalRunner:
    """Runs units as processes of this machine; a `Runner`."""

    def __init__(
        self, root: Path, ledger: Ledger, at_once: int, launch: Launch = DEFAULT_LAUNCH
    ) -> None:
        """Take where results go and how many units may run at a time.

        Args:
            root: The folder of all stages' folders.
            ledger: The sweep's.
            at_once: Units at a time.
            launch: The interpreter of every stage, and the launcher of training.
        """
        self.at_once = at_once
        self._root, self._ledger, self._launch = root, ledger, launch
        self._running: list[_Running] = []
        self._held_up: list[Unit] = []
        self._ended: list[Outcome] = []

    def prepare(self, config: Config, evaluate_base: bool) -> None:
        """Finish the data and the base policy, and perhaps its evaluation.

        Raises:
            UserError: A stage failed.
            StoppedError: The sweep's ledger was asked to stop meanwhile.
        """
        base = base_policy(config)
        nodes = [prepared(config), *([base] if isinstance(base, Node) else [])]
        nodes += [base_run(config, base).score] if evaluate_base else []
        for node in nodes:
            if find(self._root, node) is None:
                self._finish(node)

    def start(self, unit: Unit) -> None:
        """Begin a unit, or go on with it where another process left it."""
        if find(self._root, unit.run.score):
            self._ended.append(Outcome(unit, "finished"))
        elif lease := self._ledger.begin(unit):
            self._begin(unit, lease)
        else:
            self._held_up.append(unit)

    def poll(self) -> list[Outcome]:
        """Return the units that have ended since the last call."""
        held_up, self._held_up = self._held_up, []
        for unit in held_up:
            self.start(unit)
        for running in list(self._running):
            if running.child.process.poll() is None:
                running.say()
            elif running.ending is None or not running.ending.is_alive():
                self._running.remove(running)
                self._take(running)
        ended, self._ended = self._ended, []
        return ended

    def stop(self, units: Sequence[Unit]) -> None:
        """Ask units to save a checkpoint and end; `poll` returns them as `stopped`."""
        names = {unit.name for unit in units}
        for running in self._running:
            if running.unit.name in names:
                running.stop()
        self._ended += [Outcome(u, "stopped") for u in self._held_up if u.name in names]
        self._held_up = [unit for unit in self._held_up if unit.name not in names]

    def leave(self, units: Sequence[Unit]) -> None:
        """End units whose trial another coordinator has taken."""
        self.stop(units)

    def close(self) -> None:
        """End everything that runs, politely, within 10 seconds."""
        for running in self._running:
            running.stop()
        for running in self._running:
            if running.ending is not None:
                running.ending.join()
        for running in self._running:
            running.lease.end(self._ending(running), "", run_tokens(self._root, running.unit))
        self._running = []

    def _finish(self, node: Node) -> None:
        child = start_stage(self._root, node, self._launch, wait=True)
        try:
            while child.process.poll() is None:
                if (reason := self._ledger.stop_asked()) is not None:
                    raise StoppedError(reason)
                time.sleep(PREPARE_POLL)
        finally:
            end_stage(child)
        check(child)

    def _begin(self, unit: Unit, lease: Lease) -> None:
        try:
            child = start_stage(self._root, self._next_node(unit), self._launch, wait=True)
        except BaseException as fault:
            reason = str(fault) if isinstance(fault, UserError) else f"{type(fault).__name__}"
            lease.end("failed", reason)
            if not isinstance(fault, UserError):
                raise
            self._ended.append(Outcome(unit, "failed", reason))
            return
        self._running.append(_Running(unit, child, lease))

    def _next_node(self, unit: Unit) -> Node:
        """Return what is to be run next: training by itself where a launcher starts it."""
        training = unit.run.training
        assert training is not None
        plain = (self._launch.launcher, unit.config.training.processes) == ("python", 1)
        return unit.run.score if plain or find(self._root, training) else training

    def _take(self, running: _Running) -> None:
        unit, node = running.unit, running.child.node
        ending = self._ending(running)
        if ending == "finished" and node.stage == "train":
            child = start_stage(self._root, unit.run.score, self._launch, wait=True)
            self._running.append(_Running(unit, child, running.lease))
            return
        reason = self._reason(running, ending)
        running.lease.end(ending, reason, run_tokens(self._root, unit))
        self._ended.append(Outcome(unit, ending, reason))

    def _ending(self, running: _Running) -> Ending:
        status = running.child.process.returncode
        if status == 0 and not (running.asked and running.child.node.stage == "train"):
            return "finished"
        if running.asked:
            return "stopped"
        return "failed" if _has_refused(running.child) else "killed"

    def _reason(self, running: _Running, ending: Ending) -> str:
        if ending not in ("failed", "killed"):
            return ""
        try:
            check(running.child)
        except UserError as fault:
            return str(fault)
        except OSError as fault:
            return explain_os_error(fault)
        return "its process ended without a word"


def _has_refused(child: Child) -> bool:
    """Return whether a process has said a sentence that the user must act on."""
    lines = child.log.read_text(encoding="utf-8", errors="replace").splitlines()
    return child.process.returncode == 2 and any(line.startswith(REFUSED) for line in lines)
