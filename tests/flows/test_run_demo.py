"""The demonstration at tiny sizes: complete, resumable, killable, idle when all is done."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rsgrpo.stages import manifests
from tests.conftest import missing

# Long enough for each stage to be met running.
SLOWER = [
    "--set",
    "policy.pretrain.steps=400",
    "--set",
    "sampling.n=1024",
    "--set",
    "sampling.batch_size=512",
]
CODE = "from rsgrpo.cli import main; main()"


def command(out: Path, arguments: list[str]) -> list[str]:
    return [sys.executable, "-c", CODE, "demo", "--out", str(out), *arguments]


def demo(out: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, arguments), capture_output=True, text=True, timeout=400)


def table(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "summary.json").read_text())["rows"]
    return rows


def stage_processes(out: Path) -> list[psutil.Process]:
    """Every process that works for this folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(out) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_arguments: list[str]) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    done = demo(out, tiny_arguments)
    assert done.returncode == 0, done.stderr
    assert "RS-GRPO (beta 4) solves" in done.stdout
    assert f"report   {out}/report.html" in done.stdout
    assert f"/mlflow server --backend-store-uri sqlite:///{out}/mlflow.db" in done.stdout
    assert "left" in done.stderr or "analysing" in done.stderr
    return out


def test_the_summary_holds_every_policy_benchmark_and_k(finished: Path) -> None:
    rows = table(finished)
    assert {row["method"] for row in rows} == {"base", "grpo", "rs_grpo"}
    assert {row["benchmark"] for row in rows} == {"T1", "T2", "T3", "T4", "T5", "T6", "mean"}
    assert len(rows) == 3 * 7 * 5
    assert rows[0].keys() == {
        "policy",
        "method",
        "risk_beta",
        "seed",
        "benchmark",
        "k",
        "pass_at_k",
        "low",
        "high",
        "n_samples",
        "n_prompts",
    }
    for row in rows:
        assert row["low"] <= row["pass_at_k"] <= row["high"]
        assert row["n_samples"] == 16
        assert row["n_prompts"] == (12 if row["benchmark"] == "mean" else 2)
        assert (row["risk_beta"] is None) == (row["method"] != "rs_grpo")


def test_mlflow_holds_study_runs_and_evaluations(finished: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished}/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "rsgrpo"]
    runs = client.search_runs([experiment.experiment_id])
    stages = {run.info.run_id: run.data.tags["stage"] for run in runs}
    assert sorted(stages.values()) == ["evaluation"] * 3 + ["study"] + ["train"] * 2
    for run in runs:
        above = stages.get(run.data.tags.get("mlflow.parentRunId", ""))
        base = run.data.tags.get("policy") == "base"
        expected = {"study": None, "train": "study", "evaluation": "study" if base else "train"}
        assert above == expected[run.data.tags["stage"]]
        assert run.info.status == "FINISHED"
    [training, *_] = [run for run in runs if stages[run.info.run_id] == "train"]
    history = client.get_metric_history(training.info.run_id, "reward")
    assert [point.step for point in history] == [1, 2, 3, 4]
    assert training.data.params["training.num_generations"] == "8"
    artifacts = {item.path for item in client.list_artifacts(training.info.run_id, "environment")}
    wanted = {"config.yaml", "machine.json", "pip-freeze.txt", "uncommitted.diff"}
    assert {f"environment/{name}" for name in wanted} <= artifacts
    assert training.inputs.dataset_inputs
    for run in runs:
        if stages[run.info.run_id] == "train":
            assert run.data.tags["diagnosis.gradient_instability"] == "unknown"
            assert run.data.tags["diagnosis.entropy_collapse"] == "unknown"
            assert "4 steps" in run.data.tags["diagnosis.entropy_collapse.evidence"]
            assert run.data.tags["diagnosis.base_overtakes"] in ("yes", "no", "unknown")
    [study] = [run for run in runs if stages[run.info.run_id] == "study"]
    assert [item.path for item in client.list_artifacts(study.info.run_id, "figures")] == [
        "figures/report.html"
    ]


def analysed(out: Path, verb: str, *options: str) -> list[dict[str, Any]]:
    """The rows that a verb prints of a finished study's root."""
    code = "from rsgrpo.cli import main; main()"
    words = [sys.executable, "-c", code, "analyse", verb, str(out), "--json", *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_the_verbs_say_of_a_root_what_the_analysis_says(finished: Path) -> None:
    [file] = finished.glob("analyse/*/tables.json")
    tables = json.loads(file.read_text())
    diagnosed = analysed(finished, "diagnosis", "--resamples", "200")
    names = ("signature", "found", "value", "low", "high", "evidence", "next_step", "rule")
    assert [[row[name] for name in names] for row in diagnosed] == [
        [row[name] for name in names] for row in tables["diagnosis"]
    ]
    assert "at k=1" in diagnosed[2]["evidence"], "the evaluations must have been found"
    points = analysed(finished, "tradeoff", "--k", "1,4", "--resamples", "200")
    assert [(p["label"], p["at_high_k"], p["on_front"], p["front_share"]) for p in points] == [
        (p["label"], p["pass_at_k"], p["on_front"], p["front_share"])
        for p in tables["tradeoff"]["points"]
    ]
    rates = analysed(finished, "solve-rate")
    assert [row["step"] for row in rates] == [1, 2, 3, 4] * 2
    assert all(row["solved"] <= row["seen"] <= row["drawn"] for row in rates)


def test_nothing_to_do_starts_nothing(finished: Path, tiny_arguments: list[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("manifest.json")}
    report = (finished / "report.html").read_bytes()
    heavy = ("torch", "mlflow", "transformers", "pyarrow")
    code = (
        "import atexit, sys, subprocess\n"
        "subprocess.Popen = None\n"
        f"atexit.register(lambda: print([n for n in {heavy!r} if n in sys.modules]))\n" + CODE
    )
    arguments = ["demo", "--out", str(finished), *tiny_arguments]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("manifest.json")} == before
    assert (finished / "report.html").read_bytes() == report


def test_another_study_in_the_same_folder_reuses_what_they_share(
    finished: Path, tiny_arguments: list[str]
) -> None:
    before = len(manifests(finished))
    done = demo(finished, [*tiny_arguments, "--set", "evaluation.resamples=100"])
    assert done.returncode == 0, done.stderr
    names = [manifest["stage"] for manifest in manifests(finished)]
    assert len(names) == before + 4
    assert names.count("train") == 2 and names.count("score") == 6 and names.count("analyse") == 2


@pytest.mark.alone
@pytest.mark.slow
def test_ctrl_c_ends_within_5_seconds_and_leaves_no_process(
    tmp_path: Path, tiny_arguments: list[str]
) -> None:
    for stage in ("pretrain", "train", "sample"):
        process = start(tmp_path, [*tiny_arguments, *SLOWER])
        wait_until(lambda stage=stage: running(tmp_path, stage))  # type: ignore[misc]
        time.sleep(0.5)
        pressed = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert time.monotonic() - pressed < 5
        assert process.returncode == 130
        assert "the same command goes on from here" in stderr
        assert stage_processes(tmp_path) == []


@pytest.mark.slow
def test_kill_9_in_every_stage_then_the_same_command_gives_the_same_table(
    tmp_path: Path, tiny_arguments: list[str]
) -> None:
    arguments = [*tiny_arguments, *SLOWER]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert demo(undisturbed, arguments).returncode == 0
    for stage, whom in (
        ("pretrain", "child"),
        ("train", "child"),
        ("train", "parent"),
        ("sample", "child"),
        ("grade", "child"),
    ):
        process = start(killed, arguments)
        try:
            wait_until(lambda stage=stage: running(killed, stage))  # type: ignore[misc]
            victims = [process.pid] if whom == "parent" else stage_pids(killed)
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            assert running(killed, stage), f"the kill came too late to meet {stage}"
            _, stderr = process.communicate(timeout=30)
            assert process.returncode == (-signal.SIGKILL if whom == "parent" else 2), stderr
            wait_until(lambda: stage_processes(killed) == [], 10)
        finally:
            process.kill()
    assert demo(killed, arguments).returncode == 0
    assert table(killed) == table(undisturbed)
    assert len(manifests(killed)) == len(manifests(undisturbed))


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_with_more_room_the_same_command_finishes(
    tmp_path: Path, tiny_arguments: list[str]
) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        missing("tmpfs", "mounting a small tmpfs needs root")
    try:
        full = demo(tmp_path / "out", tiny_arguments)
        assert full.returncode == 2
        assert "no space is left on the disk" in full.stderr
        assert "Traceback" not in full.stderr
        kept = len(manifests(tmp_path / "out"))
        subprocess.run(["mount", "-o", "remount,size=200m", str(tmp_path)], check=True)
        assert demo(tmp_path / "out", tiny_arguments).returncode == 0
        assert 0 < kept < len(manifests(tmp_path / "out"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def start(out: Path, arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(out, arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stage_pids(out: Path) -> list[int]:
    return [p.pid for p in stage_processes(out) if "rsgrpo.stages" in " ".join(p.cmdline())]


def running(out: Path, stage: str) -> bool:
    """Whether a stage has begun its work and not finished it."""
    begun = {
        "pretrain": lambda folder: (folder / ".work" / "checkpoint.pt").exists(),
        "train": lambda folder: any((folder / ".work").glob("checkpoint-*")),
        "sample": lambda folder: any(folder.glob("*/part-*.parquet")),
        "grade": lambda folder: folder.exists(),
    }[stage]
    return any(
        begun(folder) and not (folder / "manifest.json").exists() for folder in folders(out, stage)
    )


def folders(out: Path, stage: str) -> Iterator[Path]:
    for folder in (out / stage).glob("*"):
        if re.search(r"-[0-9a-f]{12}$", folder.name):
            yield folder
