"""The coordinator over trials that take no time: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from rsgrpo.errors import UserError
from sweeps import run as run_module
from sweeps.config import SamplerConfig
from sweeps.ledger import Ledger, trial_lease
from sweeps.provenance import Provenance
from sweeps.storage import open_storage, persist, shown
from sweeps.study import create, extend, load, retry_failed
from sweeps.watch import Look, Rung
from tests.postgresql import Postgresql
from tests.sweeps.empty_trials import EmptyRunner, measure, plan, run, runs_of_units

FOLDER = str(Path(run_module.__file__).parent)
MADE_WITH = Provenance("0123abc", False, "environment")


@pytest.fixture(autouse=True)
def known_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "provenance", lambda *_: MADE_WITH)


@pytest.fixture(params=["sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "sqlite": f"sqlite:///{tmp_path / 'optuna.db'}",
        "journal": f"journal:{tmp_path / 'optuna.journal'}",
    }[request.param]


def points(opened: Any) -> list[dict[str, Any]]:
    return [trial.params for trial in opened.study.trials]


def states(opened: Any) -> list[str]:
    return [trial.state.name for trial in opened.study.trials]


def run_until_killed(storage: str, root: Path, lines: int) -> bool:
    """Run a coordinator in a fork that is killed at some line of `sweeps`; whether it was."""
    child = os.fork()
    if child == 0:
        left = lines

        def count(frame: Any, event: str, argument: object) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.startswith(FOLDER):
                return None
            left -= event == "line"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return count

        sys.settrace(count)
        try:
            run(load(storage, "killed", root))
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("sampler", ["grid", "random", "nsga2", "tpe"])
def test_killed_at_any_line_no_trial_is_lost_and_no_unit_is_run_twice(
    storage: str, sampler: Any, tmp_path: Path
) -> None:
    kills, trials, draw = 12, 6, random.Random(sampler)
    settings = SamplerConfig(name=sampler, startup_trials=3, population=2)
    sweep = plan(trials, sampler, seeds=[0, 1])
    sweep = sweep._replace(sweep=sweep.sweep.model_copy(update={"sampler": settings}))
    create(sweep, storage, "killed", tmp_path / "killed")
    for _ in range(kills):
        if not run_until_killed(storage, tmp_path / "killed", draw.randrange(100, 2500)):
            break
    opened = load(storage, "killed")
    assert run(opened).ending == "complete"
    assert states(opened) == ["COMPLETE"] * trials
    units = {f"trial{n}-seed{seed}": 1 for n in range(trials) for seed in (0, 1)}
    assert runs_of_units(tmp_path / "killed") == units
    assert [held for held in opened.ledger.held() if held.alive] == []
    undisturbed = create(sweep, storage, "undisturbed", tmp_path / "undisturbed")
    run(undisturbed)
    assert points(opened) == points(undisturbed)
    values = [trial.values for trial in opened.study.trials]
    assert values == [trial.values for trial in undisturbed.study.trials]


def test_a_trial_keeps_what_it_was_made_of(tmp_path: Path) -> None:
    opened = create(plan(1, seeds=[3, 4]), f"sqlite:///{tmp_path / 'o.db'}", "s", tmp_path)
    run(opened)
    (trial,) = opened.study.trials
    kept = trial.user_attrs
    assert kept["seeds"] == [3, 4]
    assert (kept["git_commit"], kept["git_dirty"]) == ("0123abc", False)
    assert set(kept["metrics_by_seed"]) == set(kept["values_by_seed"]) == {"3", "4"}
    mean = sum(values[1] for values in kept["values_by_seed"].values()) / 2
    assert trial.values[1] == pytest.approx(mean)
    assert (kept["end_reason"], kept["tokens"], kept["device_seconds"]) == ("done", 0, 0.0)


def test_a_killed_unit_is_begun_again_as_often_as_retries_say(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    opened = create(plan(2, retries=1), storage, "s", tmp_path)
    gone = ("killed", "its process is gone")
    run(opened, EmptyRunner(tmp_path / "units", [gone, gone, gone, ("finished", "")]))
    first, second = opened.study.trials
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert first.user_attrs["end_reason"] == "seed 0: its process is gone (for the 2. time)"


def test_failed_trials_are_tried_again_once_each(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    opened = create(plan(3, "grid"), storage, "s", tmp_path)
    run(opened, EmptyRunner(tmp_path / "units", [("failed", "bad weather")]))
    assert states(opened) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert retry_failed(opened) == [0]
    assert retry_failed(opened) == []
    assert run(opened).ending == "complete"
    again = opened.study.trials[3]
    assert (again.state, again.user_attrs["retry_of"]) == (TrialState.COMPLETE, 0)
    assert again.params == opened.study.trials[0].params
    assert len(opened.study.trials) == 4


def test_a_sweep_is_made_longer(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    opened = create(plan(2), storage, "s", tmp_path)
    run(opened)
    assert extend(opened, 3) == 5
    run(load(storage, "s"))
    assert states(opened) == ["COMPLETE"] * 5
    grid = create(plan(None, "grid"), storage, "g", tmp_path)
    with pytest.raises(UserError, match="1201 trials are asked for and the grid has 1200 points"):
        extend(grid, 1)


def test_where_most_trials_fail_no_further_one_is_begun(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    opened = create(plan(20, max_failure_rate=0.5), storage, "s", tmp_path)
    result = run(opened, EmptyRunner(tmp_path / "units", [("failed", "no disk")] * 20))
    assert states(opened) == ["FAIL"] * 4
    assert result.ending == "failures"
    assert "4 of 4 ended trials have failed" in result.reason and "no disk" in result.reason


def test_a_name_belongs_to_one_sweep(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    create(plan(2), storage, "s", tmp_path)
    create(plan(2), storage, "s", tmp_path)
    with pytest.raises(UserError, match="is there with other settings"):
        create(plan(2, seeds=[5]), storage, "s", tmp_path)
    with pytest.raises(UserError, match="did you mean s"):
        load(storage, "st")


def test_a_storage_that_is_away_is_waited_for(tmp_path: Path) -> None:
    storage, said, faults = f"sqlite:///{tmp_path / 'o.db'}", [], [0.0]
    opened = create(plan(6), storage, "s", tmp_path)
    inner = optuna.storages._CachedStorage
    draw = random.Random(0)

    def failing(name: str) -> Any:
        whole = getattr(inner, name)

        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            answer = whole(self, *arguments, **named)
            if draw.random() < 0.15:  # done, and the answer is lost
                faults[0] += 1
                raise optuna.exceptions.StorageInternalError("gone")
            return answer

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.storage.FIRST_WAIT", 0.001)
        for name in ("create_new_trial", "set_trial_user_attr", "set_trial_state_values"):
            patch.setattr(inner, name, failing(name))
        assert run(opened, say=said.append).ending == "complete"
    assert faults[0] > 2
    assert states(opened) == ["COMPLETE"] * 6
    assert set(runs_of_units(tmp_path).values()) == {1}


def test_the_user_is_told_once_that_the_storage_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.storage.time.sleep", lambda seconds: None)
    said: list[str] = []
    answers = iter(["away"] * 20 + ["here"])

    def operation() -> str:
        if next(answers) == "away":
            raise optuna.exceptions.StorageInternalError("postgresql://me:secret@host/d is gone")
        return "done"

    assert persist(operation, said.append, lambda: True) == "done"
    assert len(said) == 2 and "secret" not in said[0] and said[1] == "the storage is back"


def test_a_torn_line_of_a_journal_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "o.log"
    opened = create(plan(2), str(path), "s", tmp_path)
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "work')
    run(load(str(path), "s"))
    assert states(load(str(path), "s")) == ["COMPLETE"] * 2
    assert opened.name == "s"


def test_storages_are_refused_in_one_sentence_without_the_password() -> None:
    with pytest.raises(UserError, match="unknown: give one of"):
        open_storage("redis://host")
    with pytest.raises(UserError) as refusal:
        open_storage("postgresql://me:secret@127.0.0.1:9/none")
    assert "secret" not in str(refusal.value) and "me:***@127.0.0.1:9" in str(refusal.value)
    assert shown("sqlite:////a/b.db") == "sqlite:////a/b.db"
    for secret in ("pa/ss", "p@ss", "p:s/s@t", "p a"):
        assert shown(f"postgresql://me:{secret}@host/db") == "postgresql://me:***@host/db"
    assert shown("postgresql://host/db?user=me&password=s3/cret&port=1") == (
        "postgresql://host/db?user=me&password=***&port=1"
    )


def test_a_stop_leaves_trials_that_go_on(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    opened = create(plan(3), storage, "s", tmp_path)

    class Slow(EmptyRunner):
        def poll(self) -> list[Any]:
            opened.ledger.ask_stop("enough")
            return []

        def stop(self, units: Any) -> None:
            self.poll = super().poll  # type: ignore[method-assign]

    began = time.monotonic()
    result = run(opened, Slow(tmp_path / "units"))
    assert (result.ending, result.reason) == ("stopped", "enough")
    assert time.monotonic() - began < 10
    assert states(opened) == ["RUNNING"]
    assert [held for held in opened.ledger.held() if held.alive] == []
    assert run(opened).ending == "complete"
    assert states(opened) == ["COMPLETE"] * 3
    assert set(runs_of_units(tmp_path).values()) == {1}


def test_others_that_are_being_stopped_are_not_disturbed(tmp_path: Path) -> None:
    opened = create(plan(3), f"sqlite:///{tmp_path / 'o.db'}", "s", tmp_path)
    opened.ledger.take("sweep-elsewhere-1")
    opened.ledger.ask_stop("enough")
    with pytest.raises(UserError, match=r"is being stopped \(enough\)"):
        run(opened)
    assert opened.ledger.stop_asked() == "enough"


def test_a_unit_that_a_worker_has_is_awaited(tmp_path: Path) -> None:
    opened = create(plan(1), f"sqlite:///{tmp_path / 'o.db'}", "s", tmp_path)
    worker = opened.ledger.take("unit-0-0")
    assert worker is not None
    turns: list[int] = []

    class Awaiting(EmptyRunner):
        def poll(self) -> list[Any]:
            turns.append(1)
            if len(turns) == 3:
                assert runs_of_units(tmp_path) == {}
                worker.release()
            return super().poll()

    assert run(opened, Awaiting(tmp_path / "units")).ending == "complete"
    assert len(turns) > 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_as_politely(tmp_path: Path, number: signal.Signals) -> None:
    opened = create(plan(3), f"sqlite:///{tmp_path / 'o.db'}", "s", tmp_path)

    class Interrupted(EmptyRunner):
        def start(self, unit: Any) -> None:
            super().start(unit)
            os.kill(os.getpid(), number)

    result = run(opened, Interrupted(tmp_path / "units"))
    assert result.ending == "interrupted"
    assert states(opened) == ["RUNNING"]
    assert signal.getsignal(number) is not None
    assert run(opened).ending == "complete"


class Slow(EmptyRunner):
    """Units end at their fourth poll, or when they are stopped."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.polls: dict[str, int] = {}

    def start(self, unit: Any) -> None:
        self.polls[unit.name] = 0
        super().start(unit)

    def poll(self) -> list[Any]:
        for name in self.polls:
            self.polls[name] += 1
        ended = super().poll()
        self._ended = [outcome for outcome in ended if self.polls[outcome.unit.name] < 4]
        return [outcome for outcome in ended if outcome not in self._ended]

    def stop(self, units: Any) -> None:
        self._ended = [
            outcome._replace(ending="stopped") if outcome.unit in units else outcome
            for outcome in self._ended
        ]


class Seen:
    """A watch that always sees the same."""

    def __init__(self, look: Look) -> None:
        self._look = look

    def look(self) -> Look:
        return self._look


def run_watched(opened: Any, look_of: Any) -> Any:
    return run_module.run_sweep(
        opened,
        Slow(opened.root / "units"),
        measure=measure,
        watch=lambda unit: Seen(look_of(unit)),
        say=lambda line: None,
    )


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_trial_that_trails_is_pruned(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "LOOK_SECONDS", 0.0)
    pruner = {"name": name, "every": 1, "startup_trials": 2, "reduction_factor": 2}
    sweep = plan(3, "grid", objectives=["pass_at_4"], pruner=pruner)
    opened = create(sweep, f"sqlite:///{tmp_path / 'o.db'}", "s", tmp_path)
    values = {0: 0.5, 1: 0.6, 2: 0.1}

    def look_of(unit: Any) -> Look:
        rungs = [Rung(step, values[unit.trial]) for step in (1, 2)]
        return Look(2, 4, 10, 1.0, rungs, None)

    assert run_watched(opened, look_of).ending == "complete"
    assert states(opened) == ["COMPLETE", "COMPLETE", "PRUNED"]
    reason = opened.study.trials[2].user_attrs["end_reason"]
    assert reason == "it trails the other trials: pass@k is 0.1 at step 1"


def test_a_safety_stop_ends_a_trial_of_two_objectives_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "LOOK_SECONDS", 0.0)
    opened = create(plan(2, seeds=[0, 1]), f"sqlite:///{tmp_path / 'o.db'}", "s", tmp_path)

    def look_of(unit: Any) -> Look:
        stop = "loss is nan at step 3" if (unit.trial, unit.seed) == (0, 1) else None
        return Look(3, 4, 10, 1.0, [], stop)

    assert run_watched(opened, look_of).ending == "complete"
    assert states(opened) == ["PRUNED", "COMPLETE"]
    assert opened.study.trials[0].user_attrs["end_reason"] == "seed 1: loss is nan at step 3"


def test_a_coordinator_that_slept_leaves_its_trial_to_who_has_taken_it(tmp_path: Path) -> None:
    opened = create(plan(1), f"sqlite:///{tmp_path / 'o.db'}", "s", tmp_path)
    thief, said, taken, seen = Ledger(opened.ledger.folder), [], [], []

    class Asleep(EmptyRunner):
        def start(self, unit: Any) -> None:
            super().start(unit)
            if not taken:
                path = thief.path_of(trial_lease(0))
                path.unlink()
                taken.append(thief.take(trial_lease(0)))

        def poll(self) -> list[Any]:
            if said and not seen:
                seen.append(states(opened))
                taken[0].release()
            return super().poll()

    assert run(opened, Asleep(tmp_path / "units"), say=said.append).ending == "complete"
    lost = "trial 0: its lease was lost: this process was silent for too long"
    assert said[0] == lost and said[1].startswith("trial 0: pass_at_1")
    assert seen == [["RUNNING"]]


def test_a_postgresql_that_is_killed_and_started_again_costs_nothing(
    postgresql: Postgresql, tmp_path: Path
) -> None:
    opened, said = create(plan(5), postgresql.url, "s", tmp_path), []

    class Killing(EmptyRunner):
        def start(self, unit: Any) -> None:
            super().start(unit)
            if unit.trial == 2:
                postgresql.kill()
                threading.Timer(3.0, postgresql.start).start()

    assert run(opened, Killing(tmp_path / "units"), say=said.append).ending == "complete"
    assert states(opened) == ["COMPLETE"] * 5
    assert set(runs_of_units(tmp_path).values()) == {1}
    away = [line for line in said if "storage" in line]
    assert len(away) == 2 and "waiting for it" in away[0] and away[1] == "the storage is back"
    assert postgresql.password not in "".join(said)
