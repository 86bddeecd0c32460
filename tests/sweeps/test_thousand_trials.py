"""A thousand empty trials through eight processes: none lost, none stuck, none twice."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sweeps.study import create, load
from tests.sweeps.empty_trials import plan, runs_of_units

TRIALS, PROCESSES = 1000, 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgresql"])
def test_none_is_lost_stuck_or_run_twice(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "postgresql":
        storage = request.getfixturevalue("postgresql_url")
    else:
        scheme = "sqlite:///" if kind == "sqlite" else "journal:"
        storage = f"{scheme}{tmp_path / 'optuna.storage'}"
    create(plan(TRIALS, "grid"), storage, "thousand", tmp_path)
    command = [sys.executable, "-m", "tests.sweeps.empty_trials", storage, "thousand", tmp_path]
    began = time.monotonic()
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(PROCESSES)]
    said = [process.communicate(timeout=900)[0].decode().strip() for process in processes]
    seconds = time.monotonic() - began
    print(f"{TRIALS} empty trials through {PROCESSES} processes on {kind}: {seconds:.1f} s")
    assert said == ["complete"] * PROCESSES
    opened = load(storage, "thousand")
    trials = opened.study.get_trials(deepcopy=False)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * TRIALS
    assert len({str(trial.params) for trial in trials}) == TRIALS
    assert runs_of_units(tmp_path) == {f"trial{n}-seed0": 1 for n in range(TRIALS)}
    assert opened.ledger.held() == []
