"""Sweeps of the embedded policy on this machine: what a kill or a stop leaves is gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rsgrpo.config import load_config
from rsgrpo.stages import find, folder_of, run
from rsgrpo.study import base_policy, trained_run
from rsgrpo.tracking.spool import SPOOL_NAME, read_spool
from sweeps.config import SweepConfig
from sweeps.ledger import Ledger
from sweeps.local_units import LocalRunner
from sweeps.run import run_sweep
from sweeps.space import Sweep
from sweeps.study import Opened, create, load
from sweeps.units import Outcome, Unit
from sweeps.values import unit_metrics
from tests.conftest import TINY

COORDINATE = """
import sys
from pathlib import Path
from sweeps.local_units import LocalRunner
from sweeps.run import run_sweep
from sweeps.study import load
opened = load(sys.argv[1], "s")
say = lambda line: print(line, flush=True)
print(run_sweep(opened, LocalRunner(opened.root, opened.ledger, 1), say=say).ending)
"""


def sweep_of(steps: int, betas: list[float]) -> Sweep:
    settings = {
        "space": {"training.risk_beta": {"values": betas}},
        "objectives": ["pass_at_1", "pass_at_4"],
    }
    config = load_config(None, [*TINY, f"training.steps={steps}", "training.save_every=1"])
    return Sweep(config, SweepConfig.model_validate(settings))


def prepare(root: Path, sweep: Sweep) -> None:
    base = base_policy(sweep.config)
    assert not isinstance(base, str | Path | dict)
    run(root, base, wait=True)


def unit_of(sweep: Sweep, opened: Opened, number: int = 0) -> Unit:
    beta = opened.plan.sweep.space["training.risk_beta"].values[number]
    training = sweep.config.training.model_copy(update={"risk_beta": float(beta), "seed": 0})
    return Unit(opened.name, number, 0, sweep.config.model_copy(update={"training": training}))


def training_records(root: Path, unit: Unit, kind: str) -> list[dict[str, Any]]:
    training = unit.run.training
    folder = folder_of(root, training) if training else None
    spool = folder / SPOOL_NAME if folder else None
    return [r for r in read_spool(spool) if r["kind"] == kind] if spool and spool.exists() else []


def wait_for_step(root: Path, unit: Unit, step: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while all(r["step"] < step for r in training_records(root, unit, "metrics")):
        assert time.monotonic() < end, "training never came that far"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def long_sweep() -> Sweep:
    return sweep_of(steps=60, betas=[4.0])


def test_a_grid_has_the_values_of_a_direct_pipeline(tmp_path: Path, tiny_root: Path) -> None:
    sweep = sweep_of(steps=2, betas=[2.0, 5.0])
    prepare(tiny_root, sweep)
    opened = create(sweep, f"sqlite:///{tmp_path / 'o.db'}", f"s{os.getpid()}", tiny_root)
    runner = LocalRunner(tiny_root, opened.ledger, at_once=2)
    assert run_sweep(opened, runner, say=lambda line: None).ending == "complete"
    for trial in opened.study.trials:
        unit = unit_of(sweep, opened, trial.number)
        direct = trained_run(unit.config, base_policy(unit.config))
        assert run(tiny_root, direct.score) == find(tiny_root, unit.run.score)
        metrics = unit_metrics(tiny_root, unit)
        assert trial.values == [metrics["pass_at_1"], metrics["pass_at_4"]]
        assert trial.params == {"training.risk_beta": unit.config.training.risk_beta}
        kept = trial.user_attrs
        assert kept["tokens"] > 0 and kept["device_seconds"] > 0
        assert (tiny_root / kept["environment"] / "pip-freeze.txt").exists()
        assert (tiny_root / kept["scores"]["0"]) == find(tiny_root, unit.run.score)
        tags = [
            record["tags"]
            for record in read_spool(tiny_root / SPOOL_NAME)
            if record["kind"] == "tags" and record["run"] == kept["runs"]["0"]
        ]
        assert tags[-1]["sweep.trial"] == str(trial.number)
        assert tags[-1]["sweep.end_reason"] == "done"
    assert [one.ending for one in opened.ledger.attempts()] == ["finished", "finished"]


@pytest.mark.slow
def test_after_a_kill_of_the_command_training_goes_on_in_the_same_run(
    tmp_path: Path, long_sweep: Sweep
) -> None:
    root, storage = tmp_path / "root", f"sqlite:///{tmp_path / 'o.db'}"
    prepare(root, long_sweep)
    opened = create(long_sweep, storage, "s", root)
    unit = unit_of(long_sweep, opened)
    command = [sys.executable, "-c", COORDINATE, storage]
    coordinator = subprocess.Popen(command, stdout=subprocess.PIPE)
    wait_for_step(root, unit, 8)
    coordinator.send_signal(signal.SIGKILL)
    coordinator.wait()
    assert [trial.state.name for trial in opened.study.trials] == ["RUNNING"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "complete"
    (trial,) = load(storage, "s").study.trials
    assert trial.state.name == "COMPLETE"
    assert [one.ending for one in opened.ledger.attempts()] == ["killed", "finished"]
    starts = training_records(root, unit, "start")
    assert len(starts) == 2 and {start["run"] for start in starts} == {
        trial.user_attrs["runs"]["0"]
    }
    steps = [record["step"] for record in training_records(root, unit, "metrics")]
    assert set(steps) == set(range(1, 61))
    assert len(steps) - 60 < 8, "it began anew"
    elsewhere = tmp_path / "elsewhere"
    assert run(elsewhere, unit.run.score)
    assert trial.values == [unit_metrics(elsewhere, unit)[f"pass_at_{k}"] for k in (1, 4)]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "SIGINT", "SIGTERM"])
def test_a_stop_ends_training_within_ten_seconds_and_leaves_a_checkpoint(
    how: str, tmp_path: Path, long_sweep: Sweep
) -> None:
    root, storage = tmp_path / "root", f"sqlite:///{tmp_path / 'o.db'}"
    prepare(root, long_sweep)
    opened = create(long_sweep, storage, "s", root)
    unit = unit_of(long_sweep, opened)
    command = [sys.executable, "-c", COORDINATE, storage]
    coordinator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_for_step(root, unit, 3)
    (held,) = [held for held in opened.ledger.held() if held.name == "unit-0-0"]
    assert held.pid == coordinator.pid
    trainers = psutil.Process(coordinator.pid).children(recursive=True)
    assert trainers
    if how == "stop":
        opened.ledger.ask_stop("enough")
    else:
        coordinator.send_signal(signal.Signals[how])
    assert psutil.wait_procs(trainers, timeout=10)[1] == []
    said = coordinator.communicate(timeout=30)[0].splitlines()
    assert said[-1] == ("stopped" if how == "stop" else "interrupted")
    assert opened.ledger.held() == []
    assert [one.ending for one in opened.ledger.attempts()] == ["stopped"]
    assert [trial.state.name for trial in opened.study.trials] == ["RUNNING"]
    training = unit.run.training
    folder = folder_of(root, training) if training else None
    assert folder and list(folder.glob(".work/**/checkpoint-*"))


def outcome_of(runner: LocalRunner, unit: Unit) -> Outcome:
    runner.start(unit)
    while not (ended := runner.poll()):
        time.sleep(0.05)
    return ended[0]


def test_a_process_that_dies_is_killed_and_one_that_refuses_has_failed(
    tmp_path: Path, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of(steps=3, betas=[7.0])
    prepare(tiny_root, sweep)
    opened = create(sweep, f"sqlite:///{tmp_path / 'o.db'}", f"d{os.getpid()}", tiny_root)
    unit, ledger = unit_of(sweep, opened), Ledger(opened.ledger.folder)
    runner = LocalRunner(tiny_root, ledger, at_once=1)
    runner.start(unit)
    os.killpg(runner._running[0].child.process.pid, signal.SIGKILL)
    while not (ended := runner.poll()):
        time.sleep(0.05)
    assert ended[0].ending == "killed"
    missing = unit.config.policy.model_copy(update={"checkpoint": str(tmp_path / "none")})
    bad = unit._replace(config=unit.config.model_copy(update={"policy": missing}))
    outcome = outcome_of(runner, bad)
    assert outcome.ending == "failed" and "none" in outcome.reason
    assert [one.ending for one in ledger.attempts()] == ["killed", "failed"]
    runner.close()
