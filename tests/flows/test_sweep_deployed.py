"""A sweep whose units are taken by workers: the same results, stopped from anywhere in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rsgrpo.config import load_config
from tests.conftest import TINY
from tests.flows.conftest import (
    CHECKOUT,
    PREFECT,
    RSGRPO,
    Platform,
    read_api,
    state_of,
    wait_until,
)

pytestmark = pytest.mark.slow

SWEEP = [*RSGRPO, "sweep"]
LONG = ["training.steps=2000", "training.save_every=1000"]


def sweep_file(folder: Path, name: str, *overrides: str) -> Path:
    """Write a sweep of two betas, each with one seed."""
    config = load_config(None, [*TINY, f"name={name}", *overrides]).model_dump(mode="json")
    del config["study"]
    branch = {
        "space": {"training.risk_beta": {"values": [2.0, 4.0]}},
        "objectives": ["pass_at_1", "pass_at_4"],
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**config, "sweep": branch}))
    return file


def trials(root: Path, name: str) -> list[Any]:
    import optuna

    study = optuna.load_study(study_name=name, storage=f"sqlite:///{root / 'optuna.db'}")
    return study.get_trials()


def test_a_sweep_through_workers_gives_what_one_here_gives(
    platform: Platform, tmp_path: Path
) -> None:
    file = sweep_file(tmp_path, "fanned")
    printed = platform.run(*SWEEP, "run", str(file), "--deployment")
    assert "pass_at_4" in printed
    runs = [run for run in read_api(platform, "flow_runs") if run["name"].startswith("fanned ")]
    assert sorted(run["name"] for run in runs) == ["fanned trial0-seed0", "fanned trial1-seed0"]
    (tmp_path / "worker.yaml").write_text(f"roots: {{default: {tmp_path / 'here'}}}\n")
    here = {"RSGRPO_WORKER": str(tmp_path / "worker.yaml"), "MLFLOW_TRACKING_URI": ""}
    environment = {**platform.environment, **here}
    platform._replace(environment=environment).run(*SWEEP, "run", str(file), "--workers", "2")
    there, own = trials(platform.root, "fanned"), trials(tmp_path / "here", "fanned")
    assert [trial.state.name for trial in there] == ["COMPLETE"] * 2
    assert [trial.values for trial in there] == [trial.values for trial in own]
    for one, other in zip(there, own, strict=True):
        assert results(one) == results(other)


def results(trial: Any) -> dict[str, float]:
    """Return a trial's metrics of its seed, without those of the machine."""
    metrics = trial.user_attrs["metrics_by_seed"]["0"]
    assert metrics["training/entropy"] > 0, "nothing would equal anything"
    clocks = ("time", "seconds", "per_second", "system/")
    return {k: v for k, v in metrics.items() if not any(word in k for word in clocks)}


def begin(platform: Platform, file: Path) -> subprocess.Popen[str]:
    """Start a sweep on the workers; return it once both units train."""
    command = start(platform, "run", str(file), "--deployment")
    wait_until(lambda: len(training(platform)) == 2 or command.poll() is not None)
    return command


def start(platform: Platform, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SWEEP, *words],
        cwd=CHECKOUT,
        env=platform.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def training(platform: Platform) -> list[Path]:
    """Return the folders of the trainings that have made a step and not ended."""
    spools = (platform.root / "train").glob("rs_grpo-beta*/spool.jsonl")
    lines = {spool.parent: spool.read_text().splitlines() for spool in spools}
    return [
        folder
        for folder, records in lines.items()
        if any('"metrics"' in line for line in records)
        and '"end"' not in records[-1]
        and not (folder / "manifest.json").exists()
    ]


@pytest.mark.alone
def test_a_cancel_in_the_ui_ends_a_unit_and_stop_the_rest_each_within_10_seconds(
    platform: Platform, tmp_path: Path
) -> None:
    command = begin(platform, sweep_file(tmp_path, "stopped", *LONG))
    folders = training(platform)
    [cancelled] = [
        run for run in read_api(platform, "flow_runs") if run["name"] == "stopped trial0-seed0"
    ]
    platform.run(*PREFECT, "flow-run", "cancel", cancelled["id"])
    asked = time.monotonic()
    wait_until(lambda: len(platform.pids("rsgrpo.stages")) == 1, 60)
    assert time.monotonic() - asked < 10
    wait_until(lambda: state_of(platform, cancelled["id"]) == "CANCELLED", 60)
    stop = start(platform, "stop", "--study-name", "stopped")
    wait_until((platform.root / "sweeps" / "stopped" / "stop").exists, 60)
    asked = time.monotonic()
    wait_until(lambda: platform.pids("rsgrpo.stages") == [], 60)
    assert time.monotonic() - asked < 10
    assert "study stopped has stopped" in stop.communicate(timeout=60)[0]
    printed, _ = command.communicate(timeout=60)
    assert command.returncode == 2, printed
    assert "the sweep has stopped (sweep stop)" in printed
    assert all(any((folder / ".work").glob("checkpoint-*")) for folder in folders)
    first, second = trials(platform.root, "stopped")
    assert (first.state.name, second.state.name) == ("FAIL", "RUNNING")
    assert "its flow run was cancelled" in first.user_attrs["end_reason"]


def test_stop_reaches_units_whose_coordinator_was_killed_and_the_next_one_adopts_them(
    platform: Platform, tmp_path: Path
) -> None:
    file = sweep_file(tmp_path, "orphans", *LONG)
    command = begin(platform, file)
    command.send_signal(signal.SIGKILL)
    command.communicate()
    second = begin(platform, file)
    leases = platform.root / "sweeps" / "orphans" / "leases"
    wait_until(lambda: all(holder(leases / f"trial-{n}.json") == second.pid for n in (0, 1)))
    time.sleep(3)  # it has begun both by then
    runs = [run for run in read_api(platform, "flow_runs") if run["name"].startswith("orphans ")]
    assert len(runs) == 2, "a unit was dispatched twice"
    os.kill(second.pid, signal.SIGKILL)
    second.communicate()
    platform.run(*SWEEP, "stop", "--study-name", "orphans")
    wait_until(lambda: platform.pids("rsgrpo.stages") == [], 15)
    spools = [json.loads(s) for s in attempts(platform.root, "orphans").splitlines()]
    assert sorted((one["trial"], one["ending"]) for one in spools) == [
        (0, "stopped"),
        (1, "stopped"),
    ]


def holder(lease: Path) -> int:
    return int(json.loads(lease.read_text())["holder"]["pid"])


def attempts(root: Path, name: str) -> str:
    return (root / "sweeps" / name / "attempts.jsonl").read_text()
