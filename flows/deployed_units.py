"""Units of a sweep on workers: each a flow run of the deployment `run-trial`, on any machine.

The Prefect server only hands units over and shows them. What a unit has done lies in its stages'
folders, who works on it in its lease: a server that is away, or a coordinator that is killed and
started again, costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

from prefect.client.schemas.objects import State, StateType

from flows.flow_runs import FlowRuns, ServerAway
from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.stages import find
from rsgrpo.study import base_policy, base_run
from rsgrpo.worker import Execution, resolve
from sweeps.ledger import Held, Ledger, unit_lease
from sweeps.local_units import LocalRunner
from sweeps.units import Outcome, StoppedError, Unit

ASKED = "the sweep asked for it"
LOST = "a worker took it and nobody is at work on it: that was killed, or has another output root"
DEPLOYMENT = "run-trial/run-trial"
POLL_SECONDS = 1.0
CLOSE_SECONDS = 10.0
# A flow run that was taken and killed before it held its lease may stay as it is for good.
UNBEGUN_SECONDS = 120.0
# A flow whose lease is given back tells Prefect how it ended; one that cannot is not waited for.
SILENT_SECONDS = 60.0


class Taken(NamedTuple):
    """A unit with its flow run.

    `since` is when its flow took the lease, once that was seen, `gone` when it was missed first,
    `asked` when it was asked to stop, `unbegun` when a worker was first seen to have it while
    nobody held its lease.
    """

    unit: Unit
    flow_run: UUID
    since: float | None = None
    gone: float | None = None
    asked: float | None = None
    unbegun: float | None = None

    @property
    def leased(self) -> bool:
        """Whether its flow was seen at work."""
        return self.since is not None


class DeployedRunner:
    """A `Runner` whose units are taken by workers."""

    def __init__(self, execution: Execution, ledger: Ledger, say: Callable[[str], None]) -> None:
        """Take where and how units run, who holds which, and what takes a line for the user."""
        self.adopts = True
        self.at_once = execution.at_once
        self._execution, self._ledger, self._say = execution, ledger, say
        self._place = resolve(execution)
        self._runs = FlowRuns(DEPLOYMENT)
        self._waiting: dict[str, Unit] = {}  # not with the server yet
        self._taken: dict[str, Taken] = {}
        self._ended: list[Outcome] = []
        self._due = 0.0
        self._is_away = False

    def prepare(self, config: Config, evaluate_base: bool) -> None:
        """Finish the data and the base policy here, and have a worker evaluate that where asked.

        Raises:
            UserError: A stage failed, or there is no such deployment.
            StoppedError: The sweep was asked to stop meanwhile.
        """
        here = LocalRunner(self._place.root, self._ledger, 1, self._place.launch)
        here.prepare(config, evaluate_base=False)
        score = base_run(config, base_policy(config)).score
        if evaluate_base and find(self._place.root, score) is None:
            self._evaluate_base(config)

    def start(self, unit: Unit) -> None:
        """Hand a unit to the workers at the next poll; one that they have already is watched."""
        self._ledger.clear_stop(unit_lease(unit))
        if find(self._place.root, unit.run.score):
            self._ended.append(Outcome(unit, "finished"))
            self._due = 0.0
            return
        self._waiting[unit.name] = unit
        self._due = 0.0

    def poll(self) -> list[Outcome]:
        """Return the units that have ended; looks once a second at most."""
        if time.monotonic() < self._due:
            return []
        self._due = time.monotonic() + POLL_SECONDS
        leases = {held.name: held for held in self._ledger.held()}
        for name, taken in self._taken.items():
            self._taken[name] = _seen(taken, leases.get(unit_lease(taken.unit)))
        states = self._ask()
        ended, self._ended = self._ended, []
        for name, taken in list(self._taken.items()):
            state, held = states.get(taken.flow_run), leases.get(unit_lease(taken.unit))
            taken = self._taken[name] = _in_state(taken, state, held)
            if outcome := self._outcome(taken, state, held):
                ended.append(outcome)
                del self._taken[name]
        return ended

    def stop(self, units: Sequence[Unit]) -> None:
        """Ask units to end: one at work by its lease, one that is not by its flow run.

        Not by both, which would end a flow while its trainer saves a checkpoint.
        """
        for unit in units:
            self._ledger.ask_stop(ASKED, unit_lease(unit))
            if self._waiting.pop(unit.name, None):
                self._ended.append(Outcome(unit, "stopped", ASKED))
            if taken := self._taken.get(unit.name):
                self._taken[unit.name] = taken._replace(asked=taken.asked or time.monotonic())
        self._due = 0.0

    def leave(self, units: Sequence[Unit]) -> None:
        """Forget units that another coordinator has taken; their flows go on for it."""
        for unit in units:
            known = (self._waiting.pop(unit.name, None), self._taken.pop(unit.name, None))
            if any(known):
                self._ended.append(Outcome(unit, "stopped", ASKED))
        self._due = 0.0

    def close(self) -> None:
        """Cancel what runs and wait until it has ended, for 10 seconds at most."""
        self._waiting.clear()
        self.stop([taken.unit for taken in self._taken.values()])
        end = time.monotonic() + CLOSE_SECONDS
        while self._taken and time.monotonic() < end:
            self.poll()
            time.sleep(0.1)
        self._runs.close()

    def _ask(self) -> dict[UUID, State]:
        """Dispatch, cancel and read what is due; nothing is known while the server is away."""
        try:
            for name, unit in list(self._waiting.items()):
                self._taken[name] = Taken(unit, self._begin(unit))
                del self._waiting[name]
            for taken in self._taken.values():
                if _to_cancel(taken):
                    self._runs.cancel(taken.flow_run)
            states = self._runs.states([taken.flow_run for taken in self._taken.values()])
        except ServerAway as fault:
            self._note_away(str(fault))
            return {}
        if self._is_away:
            self._is_away = False
            self._say(f"the Prefect server at {self._runs.server} answers again")
        return states

    def _note_away(self, fault: str) -> None:
        if not self._is_away:
            self._is_away = True
            self._say(
                f"the Prefect server at {self._runs.server} does not answer ({fault}): waiting "
                "for it, units go on on their workers"
            )

    def _begin(self, unit: Unit) -> UUID:
        parameters = {
            **self._parameters(unit.config),
            "unit": {"study": unit.study, "trial": unit.trial, "seed": unit.seed},
        }
        return self._runs.begin(_key(parameters), f"{unit.study} {unit.name}", parameters)

    def _parameters(self, config: Config) -> dict[str, Any]:
        here = self._execution.model_copy(update={"units": "here", "at_once": 1})
        return {
            "config": config.model_dump(mode="json"),
            "execution": here.model_dump(mode="json"),
        }

    def _outcome(self, taken: Taken, state: State | None, held: Held | None) -> Outcome | None:
        """Return how a unit has ended, None while it goes on."""
        over = state is not None and state.is_final()
        if not over and not taken.leased:
            return self._lost_on_the_way(taken)
        if held and held.alive and (not over or held.since == taken.since):
            return None  # a server that missed its signs of life may say that it crashed
        if find(self._place.root, taken.unit.run.score):
            return Outcome(taken.unit, "finished")
        if outcome := self._recorded(taken):  # a flow that is ended from outside seems crashed
            return outcome
        if state is not None and over:
            return _ended(taken.unit, state)
        if held:  # its process is gone: nobody else may know yet
            self._crash(taken)
            return Outcome(taken.unit, "killed", "the process of its flow is gone")
        if taken.gone and time.monotonic() - taken.gone > SILENT_SECONDS:
            self._crash(taken)
            return Outcome(taken.unit, "killed", "its flow ended without a word")
        return None

    def _lost_on_the_way(self, taken: Taken) -> Outcome | None:
        """Return the end of a unit that nobody has begun for too long, None of any other."""
        if taken.unbegun is None or time.monotonic() - taken.unbegun < UNBEGUN_SECONDS:
            return None
        self._crash(taken)
        return Outcome(taken.unit, "killed", LOST)

    def _recorded(self, taken: Taken) -> Outcome | None:
        """Return how the flow itself said that its attempt ended."""
        unit = taken.unit
        for attempt in self._ledger.attempts():
            if (attempt.trial, attempt.seed, attempt.began) == (*unit[1:3], taken.since):
                if attempt.ending == "finished":
                    return _invisible(unit)
                return Outcome(unit, attempt.ending, attempt.reason)
        return None

    def _crash(self, taken: Taken) -> None:
        try:
            self._runs.crash(taken.flow_run, "The process that held its lease is gone.")
        except ServerAway as fault:
            self._note_away(str(fault))

    def _evaluate_base(self, config: Config) -> None:
        parameters = {**self._parameters(config), "policy": "base"}
        flow_run = self._patiently(
            lambda: self._runs.begin(_key(parameters), f"{config.name} base", parameters)
        )
        try:
            while True:
                state = self._patiently(lambda: self._runs.states([flow_run]))[flow_run]
                if state.is_final():
                    break
                self._refuse_stopped()
                time.sleep(POLL_SECONDS)
        except BaseException:
            with suppress(ServerAway):  # what ends this is the fault that counts
                self._runs.cancel(flow_run)
            raise
        if not state.is_completed():
            raise UserError(f"the base policy was not evaluated: {_sentence(state)}")

    def _refuse_stopped(self) -> None:
        if (reason := self._ledger.stop_asked()) is not None:
            raise StoppedError(f"the sweep was stopped before its first trial ({reason})")

    def _patiently(self, call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except ServerAway as fault:
                self._note_away(str(fault))
                self._refuse_stopped()
                time.sleep(POLL_SECONDS)


def _seen(taken: Taken, held: Held | None) -> Taken:
    if held and held.said.get("flow_run") == str(taken.flow_run):
        return taken._replace(since=held.since, gone=None)
    return taken._replace(gone=taken.gone or time.monotonic()) if taken.leased else taken


def _in_state(taken: Taken, state: State | None, held: Held | None) -> Taken:
    """Note since when a worker has a unit that nobody is at work on.

    While the server is away that is not known: its flow cannot begin without it.
    """
    waits = state is None or state.type == StateType.SCHEDULED
    if waits or taken.leased or (held and held.alive):
        return taken._replace(unbegun=None)
    return taken._replace(unbegun=taken.unbegun or time.monotonic())


def _to_cancel(taken: Taken) -> bool:
    """Return whether a unit that shall stop cannot be told by its lease, or did not listen."""
    if taken.asked is None:
        return False
    return not taken.leased or time.monotonic() - taken.asked > CLOSE_SECONDS


def _ended(unit: Unit, state: State) -> Outcome:
    if state.is_completed():
        return _invisible(unit)
    if state.type == StateType.FAILED:
        return Outcome(unit, "failed", _sentence(state))
    if state.type == StateType.CANCELLED:
        return Outcome(unit, "stopped", state.message or "its flow run was cancelled in Prefect")
    return Outcome(unit, "killed", _sentence(state))


def _invisible(unit: Unit) -> Outcome:
    return Outcome(
        unit,
        "failed",
        f"{unit.name} is finished, but its scores are not seen from here: its worker must have the "
        "same code, packages and output root",
    )


def _sentence(state: State) -> str:
    return (state.message or str(state.name)).rpartition("UserError: ")[2]


def _key(parameters: Mapping[str, Any]) -> str:
    """Return what a unit is known by: equal parameters are never dispatched twice at a time."""
    text = json.dumps(parameters, sort_keys=True)
    return f"rsgrpo-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
