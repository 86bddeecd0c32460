"""The flows on real servers and workers: complete, visible, recorded, resumable, killable."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from rsgrpo.config import load_config
from rsgrpo.stages import manifests
from tests.conftest import TINY
from tests.flows.conftest import (
    CHECKOUT,
    PREFECT,
    RSGRPO,
    Platform,
    read_api,
    started_platform,
    state_of,
    wait_until,
)
from tests.flows.test_run_demo import stage_processes

pytestmark = pytest.mark.slow

# Training long enough to be met running, on a base that solves some problems and not others.
SWEEP = [
    *TINY,
    "name=sweep",
    "sampling.split=development",
    "data.prompts_per_tier=4",
    "data.pool_per_tier=40",
    "policy.hidden_size=64",
    "policy.heads=4",
    "policy.mlp_size=64",
    "policy.pretrain.steps=900",
    "policy.pretrain.tier_mix=[0.5,0.5,0,0,0,0]",
    "training.prompts_per_step=16",
    "training.steps=40",
    "training.save_every=2",
]


def config(*overrides: str) -> str:
    return json.dumps(load_config(None, [*SWEEP, *overrides]).model_dump(mode="json"))


def sweep_command(name: str, study: str) -> list[str]:
    return [*PREFECT, "deployment", "run", name, "-p", f"config={study}", "--watch"]


def table(root: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((root / "summary.json").read_text())["rows"]
    return rows


def stages_done(root: Path) -> Counter[str]:
    return Counter(f"{manifest['stage']} {manifest['name']}" for manifest in manifests(root))


@pytest.fixture(scope="module")
def swept(platform: Platform) -> Platform:
    """A platform on which one undisturbed sweep has run by its bare name."""
    printed = platform.run(*sweep_command("beta-sweep", config()))
    assert "Completed" in printed
    values = {row["pass_at_k"] for row in table(platform.root) if row["benchmark"] == "mean"}
    assert len(values) > 7, "a table of zeros would equal any other"
    return platform


def test_every_stage_is_visible_in_prefect(swept: Platform) -> None:
    runs = read_api(swept, "flow_runs")
    assert {run["state"]["type"] for run in runs} == {"COMPLETED"}
    deployed = [run for run in runs if run["deployment_id"]]
    assert len(deployed) == 4  # the sweep and the units that workers took: base, GRPO, beta 4
    # the server takes task runs from a queue of events, a little later
    wait_until(lambda: set(stages_done(swept.root)) <= stages_seen(swept), 60)
    artifacts = read_api(swept, "artifacts")
    assert {"table", "markdown", "progress"} <= {artifact["type"] for artifact in artifacts}
    shown = {artifact["key"]: artifact["data"] for artifact in artifacts if artifact["key"]}
    assert swept.mlflow in shown["sweep-mlflow"]
    assert "RS-GRPO (beta 4) solves" in shown["sweep-headline"]
    assert len(json.loads(shown["sweep-pass-at-k"])) == 3 * 2


def stages_seen(platform: Platform) -> set[str]:
    return {run["name"] for run in read_api(platform, "task_runs")}


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


def test_a_flow_by_itself_is_recorded_to_its_end(platform: Platform) -> None:
    from mlflow import MlflowClient

    alone = config("name=alone", "policy.pretrain.steps=60")
    name = "evaluate-policy/evaluate-policy"
    chosen = ["-p", f"config={alone}", "-p", 'policy="base"', "-p", 'execution={"root": "alone"}']
    assert "Completed" in platform.run(*PREFECT, "deployment", "run", name, *chosen, "--watch")
    client = MlflowClient(platform.mlflow)
    experiment = client.get_experiment_by_name("rsgrpo")
    wanted = "tags.`rsgrpo.study` = 'alone'"
    runs = client.search_runs([experiment.experiment_id], wanted)
    assert sorted(run.info.run_name for run in runs) == ["alone", "base evaluation"]
    assert {run.info.status for run in runs} == {"FINISHED"}


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


def trainer_at_work(platform: Platform) -> list[int]:
    """Return the trainers of RS-GRPO that have saved a checkpoint and not yet ended."""
    begun = [
        folder
        for folder in (platform.root / "train").glob("rs_grpo*")
        if any((folder / ".work").glob("checkpoint-*")) and not (folder / "manifest.json").exists()
    ]
    return platform.pids("rsgrpo.stages", "rs_grpo") if begun else []


def start_sweep(platform: Platform) -> subprocess.Popen[str]:
    return subprocess.Popen(
        sweep_command("beta-sweep", config()),
        cwd=CHECKOUT,
        env=platform.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def flow_of(pid: int) -> int:
    """Return the flow's process that a trainer belongs to."""
    return psutil.Process(pid).ppid()


def orphaned(pid: int) -> bool:
    return psutil.Process(pid).ppid() == 1


def test_kill_9_of_trainer_flow_and_worker_is_gone_on_with_and_gives_the_same_table(
    swept: Platform, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with started_platform(tmp_path_factory.mktemp("killed"), workers=2) as killed:
        share_base(swept.root, killed.root)
        command = start_sweep(killed)
        dead: set[int] = set()
        for whom in ("trainer", "flow", "worker"):
            wait_until(lambda: set(trainer_at_work(killed)) - dead, 240)
            [trainer, *_] = set(trainer_at_work(killed)) - dead
            flow = flow_of(trainer)
            worker = psutil.Process(flow).ppid()
            os.kill({"trainer": trainer, "flow": flow, "worker": worker}[whom], signal.SIGKILL)
            dead.add(trainer)
            if whom == "worker":  # its flow goes on, and `rsgrpo up` starts it again
                wait_until(lambda pid=flow: orphaned(pid), 10)
        printed, _ = command.communicate(timeout=400)
        assert "Completed" in printed
        assert "Completed" in killed.run(*sweep_command("beta-sweep", config()))
        assert table(killed.root) == table(swept.root)
        assert stages_done(killed.root) == stages_done(swept.root)
        attempts = Counter(log.stem.rpartition("-")[0] for log in attempts_of(killed.root))
        assert attempts.pop("rs_grpo-beta4-seed0-score") == 3  # killed twice
        assert set(attempts.values()) == {1}, "a finished stage was run again"
        assert rewards_of(killed) == rewards_of(swept)


def share_base(source: Path, target: Path) -> None:
    """Copy the data and the base policy, which need not be made again."""
    for stage in ("prepare", "pretrain"):
        shutil.copytree(source / stage, target / stage)


def attempts_of(root: Path) -> list[Path]:
    """Return the log of each process that was started for a stage."""
    return sorted((root / "logs").glob("*-[0-9]*.log"))


def rewards_of(platform: Platform) -> dict[str, list[tuple[int, float]]]:
    """Return (step, reward) of each training run in MLflow, duplicates and all."""
    from mlflow import MlflowClient

    client = MlflowClient(platform.mlflow)
    experiment = client.get_experiment_by_name("rsgrpo")
    root = (platform.root / ".root-id").read_text()
    wanted = f"tags.stage = 'train' and tags.`rsgrpo.root` = '{root}'"
    runs = client.search_runs([experiment.experiment_id], wanted)
    return {
        run.info.run_name: [
            (point.step, point.value)
            for point in client.get_metric_history(run.info.run_id, "reward")
        ]
        for run in runs
    }


@pytest.mark.alone
def test_a_cancelled_flow_ends_trainer_and_children_within_10_seconds_and_leaves_a_checkpoint(
    platform: Platform,
) -> None:
    longer = config("name=cancelled", "training.steps=2000", "training.save_every=1000")
    command = [*PREFECT, "deployment", "run", "run-trial/run-trial", "-p", f"config={longer}"]
    platform.run(*command)
    root = platform.root / "train"
    spool = "rs_grpo-beta2-seed0-*/spool.jsonl"
    wait_until(lambda: any('"metrics"' in file.read_text() for file in root.glob(spool)))
    [run] = [
        run
        for run in read_api(platform, "flow_runs")
        if run["state"]["type"] == "RUNNING" and run["deployment_id"]
    ]
    platform.run(*PREFECT, "flow-run", "cancel", run["id"])
    asked = time.monotonic()
    wait_until(lambda: platform.pids("rsgrpo.stages") == [], 60)
    took = time.monotonic() - asked
    [folder] = [file.parent for file in root.glob(spool)]
    assert any((folder / ".work").glob("checkpoint-*"))
    assert not (folder / "manifest.json").exists()
    records = [json.loads(line) for line in (folder / "spool.jsonl").read_text().splitlines()]
    assert records[-1]["kind"] == "end" and records[-1]["status"] == "KILLED"
    assert took < 10, f"it took {took:.1f} s"
    wait_until(lambda: state_of(platform, run["id"]) == "CANCELLED", 30)


@pytest.mark.alone
def test_ctrl_c_of_the_pipeline_verb_ends_its_units_and_leaves_their_checkpoints(
    platform: Platform, tmp_path: Path
) -> None:
    (tmp_path / "worker.yaml").write_text(f"roots: {{default: {tmp_path / 'out'}}}\n")
    longer = [*SWEEP, "training.steps=2000", "training.save_every=1000"]
    process = subprocess.Popen(
        [*RSGRPO, "pipeline", "--at-once", "2", *(w for o in longer for w in ("--set", o))],
        cwd=CHECKOUT,
        env={**platform.environment, "RSGRPO_WORKER": str(tmp_path / "worker.yaml")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    spools = (tmp_path / "out" / "train").glob
    wait_until(lambda: sum('"metrics"' in f.read_text() for f in spools("*/spool.jsonl")) == 2)
    process.send_signal(signal.SIGINT)
    pressed = time.monotonic()
    wait_until(lambda: stage_processes(tmp_path / "out") == [], 30)
    took = time.monotonic() - pressed
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed[-2000:]
    assert "the same command goes on from here" in printed
    assert took < 10, f"it took {took:.1f} s"
    assert len(list(spools("*/.work/checkpoint-*"))) == 2


def test_training_goes_on_without_any_server_and_sync_brings_all_metrics_later(
    swept: Platform, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("dead")
    with started_platform(folder) as dead:
        share_base(swept.root, dead.root)
        dead.run(
            *PREFECT, "deployment", "run", "train-policy/train-policy", "-p", f"config={config()}"
        )
        wait_until(lambda: trainer_at_work(dead))
        dead.process.kill()
        wait_until(lambda: not services_of(dead), 30)
        manifest = "rs_grpo-beta2-seed0-*/manifest.json"
        wait_until(lambda: list((dead.root / "train").glob(manifest)), 120)
        for pid in dead.pids():  # the flow asks for its server for minutes before it gives up
            psutil.Process(pid).kill()
    store = f"sqlite:///{folder / 'later.db'}"
    command = [*RSGRPO, "sync", str(dead.root), "--tracking-uri", store]
    assert ", 0 numbers" not in dead.run(*command)
    assert rewards_of(dead._replace(mlflow=store))["rs_grpo-beta2-seed0"] == [
        (step, value) for step, value in enumerate(rewards_in_spool(dead.root), 1)
    ]
    assert ", 0 numbers" in dead.run(*command)


def services_of(platform: Platform) -> list[int]:
    """Return the processes of servers and workers, whose flows outlive them."""
    return platform.pids("-m mlflow server") + platform.pids("-m prefect ")


def rewards_in_spool(root: Path) -> list[float]:
    [spool] = (root / "train").glob("*/spool.jsonl")
    records = [json.loads(line) for line in spool.read_text().splitlines()]
    return [r["values"]["reward"] for r in records if r["kind"] == "metrics"]
