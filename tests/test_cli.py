"""The command line: light to start, one sentence for each fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rsgrpo.config import Config, load_config
from tests.conftest import missing

HEAVY = (
    *("torch", "mlflow", "prefect", "optuna", "pandas", "transformers", "pyarrow", "plotly"),
    *("datasets", "datasketch", "scipy"),
)


def rsgrpo(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from rsgrpo.cli import main; main()", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("rsgrpo: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from rsgrpo.cli import main\n"
        "sys.argv = ['rsgrpo', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().splitlines()[-1] == "[]"
    for verb in (
        "demo",
        "train",
        "evaluate",
        "grade",
        "passk",
        "compare",
        "bandit",
        "sync",
        "report",
        "data",
        "analyse",
        "cases",
        "serve",
    ):
        assert f" {verb} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--set", "training.risk_bta=4"], "did you mean training.risk_beta?"),
        (["train", "-c", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["train", "--set", "training.steps=0"], "training.steps"),
        (["evaluate", "--set", "sampling.n=0"], "sampling.n"),
        (["demo", "--set", "study.seeds=none"], "study.seeds"),
        (["grade", "nowhere.jsonl", "-o", "out.parquet"], "nowhere.jsonl does not exist"),
        (["passk", "nowhere.parquet"], "nowhere.parquet"),
        (["passk", "x.parquet", "--k", "one"], "--k is 'one'"),
        (["compare", "a.parquet", "b.parquet"], "a.parquet does not exist"),
        (["evaluate", "no/such/policy"], "no/such/policy does not exist"),
        (["evaluate", "--samples", "4", "--rollouts", "x.jsonl"], "leave --samples out"),
        (["grade", "x.jsonl", "-o", "y.parquet", "--timeout", "-1"], "timeout"),
        (["report", "nowhere"], "nowhere"),
        (["sync", "nowhere"], "nowhere is not a folder"),
        (["bandit", "--pulls", "15"], "15"),
        (["analyse", "solve-rate", "nowhere"], "nowhere does not exist"),
        (["analyse", "diagnosis", "nowhere"], "nowhere does not exist"),
        (["analyse", "tradeoff", "nowhere"], "nowhere holds no scores"),
    ],
)
def test_a_fault_of_the_users_is_one_sentence(arguments: list[str], words: str) -> None:
    assert words in one_sentence(rsgrpo(*arguments))


def test_an_empty_store_is_one_sentence(tmp_path: Path) -> None:
    assert "holds no spool.jsonl" in one_sentence(rsgrpo("sync", str(tmp_path)))
    assert "tables.json" in one_sentence(rsgrpo("report", str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "option"), [("disk_full", "size=256k"), ("read_only", "ro,size=1m")]
)
def test_a_full_or_read_only_disk_is_one_sentence(
    tmp_path: Path, name: str, option: str, tiny_arguments: list[str]
) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        missing("tmpfs", "mounting a small tmpfs needs root")
    try:
        sentence = one_sentence(rsgrpo("train", *tiny_arguments, "--out", str(tmp_path / "runs")))
        assert ("no space is left" if name == "disk_full" else "read-only") in sentence
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_bandit_takes_betas_as_the_manual_writes_them() -> None:
    done = rsgrpo("bandit", "--betas", "0", "2", "4", "--seeds", "2", "--pulls", "1600", "--json")
    rows = json.loads(done.stdout)
    assert [(row["risk_beta"], row["seed"]) for row in rows] == [
        (beta, seed) for beta in (0.0, 2.0, 4.0) for seed in (0, 1)
    ]
    assert rows[0].keys() == {"risk_beta", "seed", "final_reward", "first_pull_above_0.9"}


def test_real_rollouts_are_graded_and_scored(shared_data: Path, tmp_path: Path) -> None:
    rollouts, graded = (
        shared_data / "rollouts" / "qwen25math_cot100x8.jsonl",
        tmp_path / "g.parquet",
    )
    assert "correct 729" in rsgrpo("grade", str(rollouts), "-o", str(graded)).stdout
    done = rsgrpo("passk", str(graded), "--k", "1,2,4,8", "--json")
    rows = json.loads(done.stdout)
    assert [(row["metric"], row["k"]) for row in rows] == [
        *(("pass@k", k) for k in (1, 2, 4, 8)),
        ("avg@n", None),
        *(("maj@k", k) for k in (1, 2, 4, 8)),
    ]
    assert rows[0]["value"] == pytest.approx(729 / 800)
    for row in rows:
        assert row["benchmark"] == "qwen25math_cot100x8"
        assert row["low"] <= row["value"] <= row["high"]
        assert (row["n_samples"], row["n_prompts"]) == (8, 100)


def test_the_resolved_config_is_printed_as_yaml_and_as_one_line_of_json(tmp_path: Path) -> None:
    for name, text in (("a", "training: {steps: 7}"), ("b", "training: {risk_beta: 4}")):
        (tmp_path / f"{name}.yaml").write_text(text)
    files = ["-c", str(tmp_path / "a.yaml"), "-c", str(tmp_path / "b.yaml")]
    whole = load_config([tmp_path / "a.yaml", tmp_path / "b.yaml"], ["name=x"])
    printed = rsgrpo("config", *files, "--set", "name=x").stdout
    (tmp_path / "printed.yaml").write_text(printed)
    assert load_config(tmp_path / "printed.yaml") == whole
    [line] = rsgrpo("config", *files, "--set", "name=x", "--json").stdout.splitlines()
    assert Config.model_validate_json(line) == whole
    assert (whole.training.steps, whole.training.risk_beta) == (7, 4)
