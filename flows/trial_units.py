"""A unit of a sweep within its flow: it holds the unit's lease and does what the ledger asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed

from flows.run_stages import finish_together, is_stopping, progress_of_stages, stoppable
from rsgrpo.config import Config
from rsgrpo.config_training import Model
from rsgrpo.errors import UserError
from rsgrpo.processes import GoneError
from rsgrpo.worker import Place
from sweeps.journal import run_tokens
from sweeps.ledger import Lease, Ledger, unit_lease
from sweeps.study import ledger_folder
from sweeps.units import Ending, Unit

WATCH_SECONDS = 0.5
SAY_SECONDS = 5.0
CANCELLED = "its flow run was cancelled"
LOST = "another process has taken its lease"


class TrialUnit(Model):
    """Which (trial, seed) of which sweep a flow run is."""

    study: str
    trial: int
    seed: int


def run_unit(config: Config, place: Place, wanted: TrialUnit) -> str | State[Any]:
    """Run a unit to its scores; return their folder, or the state of a unit that ended otherwise.

    It waits while somebody else is at work on the unit.

    Raises:
        UserError: A stage refused, or the study has no ledger here.
    """
    unit = Unit(wanted.study, wanted.trial, wanted.seed, config)
    folder = ledger_folder(place.root, unit.study)
    if not folder.is_dir():
        raise UserError(
            f"study {unit.study} has no ledger {folder}: it was deleted, or this worker's output "
            "root is another than that of the command that runs the sweep"
        )
    ledger = Ledger(folder)
    lease = _wait_for_lease(ledger, unit)
    if lease is None:
        return Cancelled(message=_stopped(ledger, unit) or CANCELLED)
    ending, reason = _attempt(place, unit, ledger, lease)
    if ending == "failed":
        raise UserError(reason)
    if ending == "killed":
        return Crashed(message=reason)
    return Cancelled(message=reason) if ending == "stopped" else reason


def _attempt(place: Place, unit: Unit, ledger: Ledger, lease: Lease) -> tuple[Ending, str]:
    """Finish a unit under its lease; return how that ended, and why or where its scores are."""
    ending: Ending = "stopped"
    said = CANCELLED
    watch = Watch(ledger, lease)
    try:
        with stoppable() as watch.stop, watch:
            folder = finish_together(place, unit.run.score)
        ending, said = "finished", ""
        return ending, str(folder)
    except (UserError, OSError) as fault:
        if watch.reason or is_stopping():
            said = watch.reason or said
        else:
            ending, said = _ending(fault), str(fault)
        return ending, said
    except Exception as fault:
        ending, said = "killed", f"{type(fault).__name__}: {fault}"
        return ending, said
    finally:
        ledger.clear_stop(lease.name)
        if not lease.lost:
            lease.end(ending, said, run_tokens(place.root, unit))


def _ending(fault: Exception) -> Ending:
    return "killed" if isinstance(fault, GoneError) else "failed"


def _wait_for_lease(ledger: Ledger, unit: Unit) -> Lease | None:
    """Return the unit's lease as soon as it is free, None where the unit shall not run."""
    while not (is_stopping() or _stopped(ledger, unit)):
        if lease := ledger.begin(unit):
            lease.say(flow_run=str(flow_run.id))
            return lease
        time.sleep(WATCH_SECONDS)
    return None


def _stopped(ledger: Ledger, unit: Unit) -> str:
    reason = ledger.stop_asked(unit_lease(unit))
    return "" if reason is None else f"stopped: {reason}"


class Watch(threading.Thread):
    """Tells how far a unit is, and ends its stages when its lease is lost or a stop is asked for.

    Attributes:
        reason: Why it ended them; empty where it did not.
        stop: Ends them.
    """

    stop: Callable[[], None]

    def __init__(self, ledger: Ledger, lease: Lease) -> None:
        """Take what to look at."""
        super().__init__(name="unit-watch", daemon=True)
        self.reason = ""
        self._ledger, self._lease = ledger, lease
        self._over = threading.Event()

    def run(self) -> None:
        """Look twice a second until the unit is over."""
        said = time.monotonic()
        while not self._over.wait(WATCH_SECONDS):
            asked = self._ledger.stop_asked(self._lease.name)
            if self._lease.lost or asked is not None:
                self.reason = LOST if self._lease.lost else f"stopped: {asked}"
                self.stop()
                return
            if time.monotonic() - said > SAY_SECONDS:
                self._lease.say(progress=progress_of_stages())
                said = time.monotonic()

    def __enter__(self) -> None:
        """Begin to look."""
        self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Look no more."""
        self._over.set()
        self.join()
