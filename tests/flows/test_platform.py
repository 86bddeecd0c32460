"""The flows on real servers and workers: complete, visible, recorded, resumable, killable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsgrpo.config import load_config
from rsgrpo.stages import manifests
from tests.conftest import TINY
from tests.flows.conftest import (
    CHECKOUT,
    PREFECT,
    RSGRPO,
    Platform,
    read_until,
    started_platform,
    wait_until,
)

pytestmark = pytest.mark.slow

# Training long enough to be met running.
SWEEP = [*TINY, "name=sweep", "training.steps=40", "training.save_every=2"]


def config(*overrides: str) -> str:
    return json.dumps(load_config(None, [*SWEEP, *overrides]).model_dump(mode="json"))


def sweep_command(name: str, study: str) -> list[str]:
    return [*PREFECT, "deployment", "run", name, "-p", f"config={study}", "--watch"]


def table(root: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((root / "summary.json").read_text())["rows"]
    return rows


def stages_done(root: Path) -> Counter[str]:
    return Counter(f"{manifest['stage']} {manifest['name']}" for manifest in manifests(root))


def read_api(platform: Platform, kind: str) -> list[dict[str, Any]]:
    """Return all objects of a kind that the Prefect server holds."""
    code = (
        "import sys, httpx\n"
        "url, kind = sys.argv[1:]\n"
        "found = []\n"
        "while True:\n"
        "    body = {'limit': 200, 'offset': len(found)}\n"
        "    page = httpx.post(f'{url}/{kind}/filter', json=body).json()\n"
        "    found += page\n"
        "    if len(page) < 200: break\n"
        "import json; print(json.dumps(found))"
    )
    import sys

    found = platform.run(sys.executable, "-c", code, platform.environment["PREFECT_API_URL"], kind)
    rows: list[dict[str, Any]] = json.loads(found.strip().splitlines()[-1])
    return rows


@pytest.fixture(scope="module")
def swept(platform: Platform) -> Platform:
    """A platform on which one undisturbed sweep has run by its bare name."""
    printed = platform.run(*sweep_command("beta-sweep", config()))
    assert "Completed" in printed
    return platform


def test_every_stage_is_visible_in_prefect(swept: Platform) -> None:
    runs = read_api(swept, "flow_runs")
    assert {run["state"]["type"] for run in runs} == {"COMPLETED"}
    names = Counter(run["state"] and run["deployment_id"] is not None for run in runs)
    assert names[True] == 4  # the sweep and three units that workers took: base, GRPO, beta 4
    seen = {run["name"] for run in read_api(swept, "task_runs")}
    assert set(stages_done(swept.root)) <= seen
    kinds = {artifact["type"] for artifact in read_api(swept, "artifacts")}
    assert {"table", "markdown", "link", "progress"} <= kinds


def test_every_run_is_in_mlflow(swept: Platform) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(swept.mlflow)
    experiment = client.get_experiment_by_name("rsgrpo")
    runs = client.search_runs([experiment.experiment_id])
    stages = Counter(run.data.tags["stage"] for run in runs)
    assert stages == {"study": 1, "train": 2, "evaluation": 3}
    assert {run.info.status for run in runs} == {"FINISHED"}
    [trained, *_] = [run for run in runs if run.data.tags["stage"] == "train"]
    steps = [point.step for point in client.get_metric_history(trained.info.run_id, "reward")]
    assert steps == list(range(1, 41))


def test_the_study_of_the_sweep_holds_one_complete_trial(swept: Platform) -> None:
    import optuna

    storage = f"sqlite:///{swept.root / 'optuna.db'}"
    [summary] = optuna.get_all_study_summaries(storage)
    [trial] = optuna.load_study(study_name=summary.study_name, storage=storage).trials
    values = {
        row["k"]: row["pass_at_k"]
        for row in table(swept.root)
        if row["policy"] == "rs_grpo-beta4-seed0" and row["benchmark"] == "mean"
    }
    assert trial.state.name == "COMPLETE"
    assert trial.values == [values[1], values[4]]


def test_the_same_command_again_reuses_everything(swept: Platform) -> None:
    before = {file: file.stat().st_mtime_ns for file in swept.root.rglob("manifest.json")}
    assert "Completed" in swept.run(*sweep_command("beta-sweep/beta-sweep", config()))
    assert {file: file.stat().st_mtime_ns for file in swept.root.rglob("manifest.json")} == before


def test_an_unknown_bare_name_is_refused(platform: Platform) -> None:
    done = subprocess.run(
        [*PREFECT, "deployment", "run", "beta-swep"],
        cwd=CHECKOUT,
        env=platform.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "not found" in done.stdout + done.stderr


def test_the_pipeline_verb_gives_the_same_table_as_the_demo(
    swept: Platform, tmp_path: Path
) -> None:
    overrides = [word for override in SWEEP for word in ("--set", override)]
    swept.run(*RSGRPO, "demo", "--out", str(tmp_path / "demo"), *overrides)
    assert table(tmp_path / "demo") == table(swept.root)
    assert stages_done(tmp_path / "demo") == stages_done(swept.root)
    (tmp_path / "worker.yaml").write_text(f"roots: {{default: {tmp_path / 'flow'}}}\n")
    swept.environment["RSGRPO_WORKER"], before = (
        str(tmp_path / "worker.yaml"),
        swept.environment["RSGRPO_WORKER"],
    )
    try:
        swept.run(*RSGRPO, "pipeline", "--at-once", "2", *overrides)
    finally:
        swept.environment["RSGRPO_WORKER"] = before
    assert table(tmp_path / "flow") == table(swept.root)
    assert stages_done(tmp_path / "flow") == stages_done(swept.root)
