"""`rsgrpo evaluate`: what it evaluates, and a whole evaluation of the embedded policy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rsgrpo.analyses.run_commands import diagnosis_verb
from rsgrpo.config import load_config
from rsgrpo.data.commands import prepare
from rsgrpo.data.jsonl import read_problems
from rsgrpo.errors import UserError
from rsgrpo.evaluated import SIX_BENCHMARKS, Asked, evaluation_config
from rsgrpo.evaluation.commands import evaluate
from rsgrpo.stages import run
from rsgrpo.study import base_policy, base_run, trained_run
from rsgrpo.tracking.journal import training_run
from rsgrpo.tracking.spool import read_spool
from tests.conftest import TINY
from tests.test_real_input import make_checkpoint

SIX = ("aime24", "aime25", "hmmt_feb24", "hmmt_feb25", "cmimc25", "math500")
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which the embedded policy is trained once."""
    folder = tmp_path_factory.mktemp("evaluate") / "runs"
    run(folder, base_policy(load_config(None, TINY)))  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    """The folder of a training run."""
    config = load_config(None, TINY)
    training = trained_run(config, base_policy(config)).training
    assert training is not None
    return run(root, training)


def evaluated(
    capsys: pytest.CaptureFixture[str], root: Path, model: Path | None = None, **options: Any
) -> list[dict[str, Any]]:
    capsys.readouterr()
    name = None if model is None else str(model)
    evaluate(name, set_=TINY, out=root, as_json=True, **options)
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def parts_of(root: Path) -> dict[str, float]:
    """The sample parts of all folders, and when each was drawn."""
    return {
        str(file.relative_to(root)): file.stat().st_mtime for file in root.glob("sample/*/*/part-*")
    }


def test_sample_grade_score_and_log_in_one_command(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copytree(root, tmp_path / "runs")
    rows = evaluated(capsys, mine)
    assert {row["metric"] for row in rows} == {"pass@k", "avg@n", "maj@k"}
    assert {row["benchmark"] for row in rows} == {*(f"T{tier}" for tier in range(1, 7)), "mean"}
    assert {(row["policy"], row["method"], row["n_samples"]) for row in rows} == {
        ("base", "base", 16)
    }
    spool = list(read_spool(mine / "spool.jsonl"))
    [metrics] = [record["values"] for record in spool if record["kind"] == "metrics"]
    for row in rows:
        place = "n" if row["k"] is None else row["k"]
        name = f"{row['benchmark']}/{row['metric'].split('@')[0]}_at_{place}"
        assert metrics[name] == row["value"]
    length = (mine / "spool.jsonl").stat().st_size
    assert evaluated(capsys, mine) == rows
    again = (mine / "spool.jsonl").read_bytes()[length:].decode()
    assert '"kind": "metrics"' not in again


def test_more_samples_only_add_parts(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copytree(root, tmp_path / "runs")
    first = evaluated(capsys, mine, samples=16)
    before = parts_of(mine)
    second = evaluated(capsys, mine, samples=32)
    assert {row["n_samples"] for row in first} == {16}
    assert {row["n_samples"] for row in second} == {32}
    after = parts_of(mine)
    assert {name: after[name] for name in before} == before
    added = {Path(name).name for name in after.keys() - before.keys()}
    assert any("00016-00032" in name for name in added)
    kept = [Path(name) for name in after if "00000-00016" in name]
    contents: dict[tuple[str, str], set[bytes]] = {}
    for name in kept:
        place = (name.parent.name, name.name)
        contents.setdefault(place, set()).add((mine / name).read_bytes())
    assert all(len(versions) == 1 for versions in contents.values())


def test_limit_and_benchmarks_evaluate_a_part(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copytree(root, tmp_path / "runs")
    rows = evaluated(capsys, mine, limit=1, benchmarks="T1,T3")
    assert {row["benchmark"]: row["n_prompts"] for row in rows} == {"T1": 1, "T3": 1, "mean": 2}
    with pytest.raises(UserError, match="unknown benchmark 'T9'"):
        evaluated(capsys, mine, benchmarks="T9")


def test_a_training_run_is_evaluated_under_its_name(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = evaluated(capsys, tmp_path / "runs", trained, samples=4)
    assert {(row["policy"], row["method"], row["risk_beta"]) for row in rows} == {
        ("rs_grpo-beta2-seed0", "rs_grpo", 2.0)
    }
    assert {row["n_samples"] for row in rows} == {4}
    assert {row["benchmark"] for row in rows} >= {"T1", "T6", "mean"}


def test_a_run_evaluated_in_its_own_root_is_diagnosed_against_the_base_there(
    root: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copytree(root, tmp_path / "runs")
    evaluated(capsys, mine)
    evaluated(capsys, mine, mine / "train" / trained.name)
    [start] = [
        record
        for record in read_spool(mine / "spool.jsonl")
        if record["kind"] == "start" and record["tags"].get("method") == "rs_grpo"
    ]
    assert start["parent"] == training_run("rs_grpo-beta2-seed0", trained)
    diagnosis_verb([mine], as_json=True)
    [row] = [r for r in json.loads(capsys.readouterr().out) if r["signature"] == "base_overtakes"]
    assert "at k=4" in row["evidence"]


def test_rollouts_made_elsewhere_are_graded_scored_and_logged(
    shared_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RSGRPO_DATA", str(tmp_path / "no-benchmark-is-needed"))
    name = "qwen25math_cot100x8"
    file = shared_data / "rollouts" / f"{name}.jsonl"
    evaluate(rollouts=file, out=tmp_path, set_=["evaluation.resamples=200"], as_json=True)
    rows = json.loads(capsys.readouterr().out)
    at = {(row["metric"], row["k"]): row for row in rows}
    assert {row["benchmark"] for row in rows} == {row["policy"] for row in rows} == {name}
    assert at["avg@n", None]["value"] == pytest.approx(729 / 800)
    assert at["pass@k", 1]["value"] == pytest.approx(729 / 800)
    assert at["maj@k", 8]["value"] > at["maj@k", 1]["value"] == pytest.approx(729 / 800)
    assert max(row["k"] or 0 for row in rows) == 8
    spool = list(read_spool(tmp_path / "spool.jsonl"))
    assert any(record["kind"] == "metrics" for record in spool)


def test_a_checkpoint_alone_is_evaluated_on_all_six_real_benchmarks(
    shared_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RSGRPO_DATA", str(tmp_path / "data"))
    prepare(list(SIX), source=str(shared_data / "benchmarks"))
    problems = read_problems(tmp_path / "data" / "aime24.jsonl")
    make_checkpoint(tmp_path / "policy", [problem.problem for problem in problems])
    short = ["sampling.max_new_tokens=4", "evaluation.resamples=200"]
    options: dict[str, Any] = {"set_": short, "out": tmp_path / "runs", "as_json": True}
    capsys.readouterr()
    evaluate(str(tmp_path / "policy"), samples=2, limit=2, **options)
    rows = json.loads(capsys.readouterr().out)
    assert {row["benchmark"] for row in rows} == {*SIX, "mean"}
    for row in rows:
        assert (row["n_samples"], row["n_prompts"]) == (2, 12 if row["benchmark"] == "mean" else 2)
    evaluate(str(tmp_path / "policy"), samples=2, limit=2, benchmarks="math500", **options)
    rows = json.loads(capsys.readouterr().out)
    assert {row["benchmark"] for row in rows} == {"math500"}


@pytest.mark.slow
def test_what_was_drawn_before_ctrl_c_is_kept(root: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(root, tmp_path / "runs")
    words = [word for override in [*TINY, "sampling.batch_size=8"] for word in ("--set", override)]
    command = [sys.executable, "-c", "from rsgrpo.cli import main; main()", "evaluate", *words]
    command += ["--out", str(mine), "--samples", "64"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    stopped = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
    deadline = time.monotonic() + 60
    while len(parts_of(mine)) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    stopped.send_signal(signal.SIGINT)
    _, words_said = stopped.communicate(timeout=60)
    assert stopped.returncode == 130 and "the same command goes on from here" in words_said
    before = parts_of(mine)
    assert len(before) >= 3
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {row["n_samples"] for row in json.loads(done.stdout)} == {64}
    after = parts_of(mine)
    assert len(after) > len(before)
    assert {name: after[name] for name in before} == before


def test_without_a_config_a_model_meets_the_six_benchmarks_as_in_the_paper() -> None:
    config = evaluation_config(Asked("Qwen/Qwen2.5-Math-1.5B"), None, [])
    assert config.policy.checkpoint == "Qwen/Qwen2.5-Math-1.5B"
    assert list(config.data.benchmarks) == list(SIX)
    assert (config.sampling.n, config.sampling.n_of) == (1024, {"math500": 32})
    assert config.evaluation.ks == tuple(1 << power for power in range(11))
    assert (config.grading.verifier, config.grading.extract) == ("math_verify", "boxed")
    assert "\\boxed{}" in config.prompt.suffix


def test_the_six_benchmarks_are_a_config_that_says_what_is_the_papers() -> None:
    assert (CONFIGS / "six_benchmarks.yaml").read_bytes() == SIX_BENCHMARKS.read_bytes()
    lines = SIX_BENCHMARKS.read_text().splitlines()
    settings = [line for line in lines if ": " in line and not line.startswith(("#", "name:"))]
    for line in settings:
        if line.split(":")[0].strip() not in ("source", "split"):
            assert line.endswith("# paper") or "# not from the paper" in line, line


def test_samples_take_the_place_of_n_and_of_its_exceptions() -> None:
    config = evaluation_config(Asked("hub/model", samples=64, limit=5), None, ["sampling.n=8"])
    assert (config.sampling.n, config.sampling.n_of, config.sampling.limit) == (64, {}, 5)


def test_a_server_is_asked_for_the_model_under_its_name(tmp_path: Path) -> None:
    urls = ("http://a:8000", "http://b:8000")
    config = evaluation_config(Asked("hub/model", servers=urls), None, [])
    assert (config.sampling.backend, config.serving.urls) == ("server", urls)
    assert config.serving.model == config.policy.checkpoint == "hub/model"
    named = evaluation_config(Asked("hub/model", servers=urls), None, ["serving.model=mine"])
    assert named.serving.model == "mine"
    local = evaluation_config(Asked(str(tmp_path), servers=urls), None, [])
    assert local.serving.model is None
    with pytest.raises(UserError, match="name it as MODEL"):
        evaluation_config(Asked(servers=urls), None, [])


def test_a_run_is_prompted_and_graded_as_it_was_trained(tmp_path: Path) -> None:
    own = {
        "grading": {"verifier": "math_verify", "extract": "full"},
        "prompt": {"template": "qwen_math"},
    }
    write_manifest(tmp_path, "train", own)
    config = evaluation_config(Asked(str(tmp_path)), None, [])
    assert (config.prompt.template, config.prompt.suffix) == ("qwen_math", "")
    assert config.grading.extract == "full"
    assert config.sampling.n == 1024
    changed = evaluation_config(Asked(str(tmp_path)), None, ["prompt.template=plain"])
    assert changed.prompt.template == "plain"


def test_a_run_on_the_embedded_task_is_evaluated_on_it(tmp_path: Path) -> None:
    write_manifest(tmp_path, "train", {"grading": {"verifier": "countdown"}})
    assert evaluation_config(Asked(str(tmp_path)), None, []).data.source == "countdown"
    write_manifest(tmp_path, "pretrain", {})
    assert evaluation_config(Asked(str(tmp_path)), None, []).data.source == "countdown"
    assert evaluation_config(Asked(), None, []).data.source == "countdown"


def write_manifest(folder: Path, stage: str, branches: dict[str, Any]) -> None:
    manifest = {"stage": stage, "depends_on": {"config": branches, "extras": {}}, "outputs": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_users_config_is_taken_as_it_stands(tmp_path: Path) -> None:
    study = {
        "data": {"source": "jsonl", "benchmarks": {"mine": "mine.jsonl"}},
        "grading": {"verifier": "math_verify"},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    config = evaluation_config(Asked("hub/model"), [tmp_path / "study.yaml"], [])
    assert list(config.data.benchmarks) == ["mine"]
    assert config.sampling.n == load_config(None).sampling.n


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked("./nowhere/at/all"), "does not exist: name a policy's folder or a hub id"),
        (Asked("x", rollouts=Path("r.jsonl")), "leave MODEL out"),
        (Asked(rollouts=Path("r.jsonl"), samples=4), "leave --samples out"),
        (Asked(rollouts=Path("r.jsonl"), servers=("http://a",)), "leave --server out"),
    ],
)
def test_arguments_that_make_no_sense_are_one_sentence(asked: Asked, message: str) -> None:
    with pytest.raises(UserError, match=message) as fault:
        evaluation_config(asked, None, [])
    assert "\n" not in str(fault.value)


def test_a_manifest_of_another_program_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "manifest.json").write_text('{"files": []}')
    assert evaluation_config(Asked(str(tmp_path)), None, []).sampling.n == 1024
    own = load_config(None, [f"policy.checkpoint={tmp_path}"])
    assert base_run(own, base_policy(own)).name == "base"


def test_the_folder_of_another_stage_is_no_policy(tmp_path: Path) -> None:
    write_manifest(tmp_path, "score", {})
    with pytest.raises(UserError, match="folder of stage score, not of a policy"):
        evaluation_config(Asked(str(tmp_path)), None, [])


def test_what_holds_no_policy_is_said_before_data_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "graded.parquet").touch()
    for place, message in ((tmp_path, "holds no policy"), (tmp_path / "graded.parquet", "a file")):
        with pytest.raises(UserError, match=message):
            evaluation_config(Asked(str(place)), None, ())


def test_benchmarks_that_are_not_prepared_and_missing_rollouts_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSGRPO_DATA", str(tmp_path))
    with pytest.raises(UserError, match="run rsgrpo data prepare aime24"):
        evaluate("hub/model", out=tmp_path / "runs")
    with pytest.raises(UserError, match=r"none\.jsonl"):
        evaluate(rollouts=tmp_path / "none.jsonl", out=tmp_path / "runs")
