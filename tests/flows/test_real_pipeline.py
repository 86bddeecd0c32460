"""The pipeline on real problems: math12k, six benchmarks, rollouts made elsewhere, Math-Verify.

Its policy is untrained and solves what it solves: nothing. What is tested is the path.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rsgrpo.data.jsonl import read_problems
from tests.flows.conftest import RSGRPO, Platform
from tests.test_real_input import BENCHMARKS, make_checkpoint

pytestmark = pytest.mark.slow

TREE = {
    "name": "real",
    "data": {"source": "jsonl", "train": "math12k", "benchmarks": list(BENCHMARKS), "limit": 300},
    "prompt": {"template": "qwen_math"},
    "training": {
        "steps": 2,
        "prompts_per_step": 4,
        "num_generations": 4,
        "minibatches": 1,
        "max_completion_length": 16,
        "save_every": 1,
    },
    "sampling": {"n": 1, "batch_size": 256, "max_new_tokens": 8, "n_of": {"aime24": 4}},
    "grading": {"verifier": "math_verify", "timeout": 2},
    "evaluation": {"ks": [1], "headline_k": 1, "resamples": 200},
    "study": {"risk_betas": [2], "seeds": [0], "headline_beta": 2},
}


@pytest.fixture(scope="module")
def finished(
    shared_data: Path, platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Platform:
    """A platform on which the pipeline has run, its units taken by workers."""
    folder = tmp_path_factory.mktemp("real")
    files = shared_data / "benchmarks"
    platform.run(*RSGRPO, "data", "prepare", "--source", str(files), "math12k", *BENCHMARKS)
    problems = read_problems(files / "math12k.jsonl", limit=200)
    make_checkpoint(folder / "qwen", [problem.problem for problem in problems])
    rollouts = {"qwen25math": str(shared_data / "rollouts" / "qwen25math_cot100x8.jsonl")}
    tree = {**TREE, "policy": {"checkpoint": "qwen"}}
    tree["study"] = {**TREE["study"], "rollouts": rollouts}
    (folder / "real.yaml").write_text(yaml.safe_dump(tree))
    platform.run(
        *RSGRPO, "pipeline", "-c", str(folder / "real.yaml"), "--deployments", "--at-once", "2"
    )
    return platform


def test_every_policy_is_scored_on_all_six_benchmarks(finished: Platform) -> None:
    rows = json.loads((finished.root / "summary.json").read_text())["rows"]
    assert {row["policy"] for row in rows} == {"base", "grpo-seed0", "rs_grpo-beta2-seed0"}
    assert {row["benchmark"] for row in rows} == {*BENCHMARKS, "mean"}
    prompts = {row["benchmark"]: row["n_prompts"] for row in rows}
    assert prompts == {
        "aime24": 30,
        "aime25": 30,
        "hmmt_feb24": 30,
        "hmmt_feb25": 30,
        "cmimc25": 40,
        "math500": 300,
        "mean": 460,
    }


def test_rollouts_made_elsewhere_are_graded_and_scored(finished: Platform) -> None:
    [folder] = (finished.root / "score").glob("qwen25math-*")
    rows = json.loads((folder / "passk.json").read_text())
    [row] = [row for row in rows if row["k"] == 1]
    assert row["pass_at_k"] == pytest.approx(729 / 800)
    assert (row["n_samples"], row["n_prompts"]) == (8, 100)


def test_all_of_it_is_in_mlflow_and_in_the_report(finished: Platform) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(finished.mlflow)
    experiment = client.get_experiment_by_name("rsgrpo")
    runs = client.search_runs([experiment.experiment_id], "tags.`rsgrpo.study` = 'real'")
    names = sorted(run.info.run_name for run in runs)
    assert names == [
        "base evaluation",
        "grpo-seed0",
        "grpo-seed0 evaluation",
        "qwen25math evaluation",
        "real",
        "rs_grpo-beta2-seed0",
        "rs_grpo-beta2-seed0 evaluation",
    ]
    report = (finished.root / "report.html").read_text()
    assert all(name in report for name in BENCHMARKS)


def test_the_prompt_is_recorded_with_the_run(finished: Platform) -> None:
    runs = [
        file.parent
        for file in (finished.root / "train").glob("*/environment/config.yaml")
        if "name: real\n" in file.read_text()
    ]
    assert len(runs) == 2
    for environment in runs:
        prompt = (environment / "prompt.txt").read_text()
        assert prompt.startswith("<|im_start|>system\nPlease reason step by step")
