"""Units of a sweep in one process: each is ended alone, and its own attempt says how it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prefect.client.schemas.objects import State

from flows import task_units, trial_units
from flows.run_stages import is_stopping
from flows.task_units import TaskRunner
from flows.trial_units import TrialUnit, run_unit
from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.launch import Launch
from rsgrpo.worker import Execution, Place
from sweeps.ledger import Ledger, unit_lease
from sweeps.units import Outcome, Unit
from tests.flows.conftest import wait_until

UNITS = [Unit("study", 0, seed, Config()) for seed in (0, 1)]


class Future:
    """A task run that ends when the test says so."""

    def __init__(self) -> None:
        self.end: Callable[[Any], None]
        self.state = SimpleNamespace(is_completed=lambda: False, message="UserError: no data")

    def add_done_callback(self, end: Callable[[Any], None]) -> None:
        self.end = end

    def wait(self, timeout: float | None = None) -> None:
        pass


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskRunner:
    (tmp_path / "worker.yaml").write_text(yaml.safe_dump({"roots": {"default": str(tmp_path)}}))
    monkeypatch.setenv("RSGRPO_WORKER", str(tmp_path / "worker.yaml"))
    task = SimpleNamespace(submit=lambda *words: Future(), with_options=lambda **options: task)
    monkeypatch.setattr(task_units, "take_unit", task)
    return TaskRunner(Execution(at_once=2), Ledger(tmp_path / "sweeps" / "study"))


def test_a_unit_that_is_stopped_leaves_the_one_beside_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = threading.Event()

    def finish_together(place: Place, node: Any) -> Path:
        while not is_stopping():
            if going.wait(0.05):
                return tmp_path / node.name
        raise UserError("it was stopped")

    monkeypatch.setattr(trial_units, "finish_together", finish_together)
    monkeypatch.setattr(trial_units, "WATCH_SECONDS", 0.05)
    place = Place(tmp_path, Launch(), None)
    ledger, answers = Ledger(tmp_path / "sweeps" / "study"), dict[int, Any]()

    def run(unit: Unit) -> None:
        wanted = TrialUnit(study=unit.study, trial=unit.trial, seed=unit.seed)
        answers[unit.seed] = run_unit(unit.config, place, wanted)

    threads = [threading.Thread(target=run, args=(unit,)) for unit in UNITS]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(ledger.is_held(unit_lease(unit)) for unit in UNITS), 10)
    ledger.ask_stop("it trails", unit_lease(UNITS[1]))
    threads[1].join(10)
    assert threads[0].is_alive()
    going.set()
    threads[0].join(10)
    assert answers[0] == str(tmp_path / UNITS[0].run.score.name)
    assert isinstance(answers[1], State) and answers[1].message == "stopped: it trails"
    endings = {attempt.seed: attempt.ending for attempt in ledger.attempts()}
    assert endings == {0: "finished", 1: "stopped"}


def test_a_stop_is_asked_of_its_unit_alone_and_taken_back_by_the_next_start(
    runner: TaskRunner, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "sweeps" / "study")
    for unit in UNITS:
        runner.start(unit)
    runner.stop(UNITS[1:])
    assert not is_stopping()
    assert [ledger.stop_asked(unit_lease(u)) for u in UNITS] == [None, "the sweep asked for it"]
    runner._running[UNITS[1].name].future.end(None)
    assert runner.poll() == [Outcome(UNITS[1], "stopped", "the sweep asked for it")]
    runner.start(UNITS[1])
    assert ledger.stop_asked(unit_lease(UNITS[1])) is None


def test_an_attempt_of_an_earlier_run_does_not_say_how_this_one_ended(
    runner: TaskRunner, tmp_path: Path
) -> None:
    lease = Ledger(tmp_path / "sweeps" / "study").begin(UNITS[0])
    assert lease is not None
    lease.end("killed", "its process is gone")
    time.sleep(0.01)
    runner.start(UNITS[0])
    runner._running[UNITS[0].name].future.end(None)
    assert runner.poll() == [Outcome(UNITS[0], "failed", "no data")]


def test_a_unit_that_waits_for_another_ends_with_its_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Ledger(tmp_path / "sweeps" / "study").begin(UNITS[0]) is not None
    monkeypatch.setattr(trial_units, "is_stopping", lambda: True)
    wanted = TrialUnit(study="study", trial=0, seed=0)
    state = run_unit(UNITS[0].config, Place(tmp_path, Launch(), None), wanted)
    assert isinstance(state, State) and state.message == "its flow run was cancelled"


def test_a_unit_of_a_deleted_study_is_not_run(tmp_path: Path) -> None:
    place, wanted = Place(tmp_path, Launch(), None), TrialUnit(study="gone", trial=0, seed=0)
    with pytest.raises(UserError, match="study gone has no ledger"):
        run_unit(Config(), place, wanted)
    assert list(tmp_path.iterdir()) == []
