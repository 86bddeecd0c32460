"""The README's examples of one's own data and reward, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from rsgrpo.data.jsonl import read_problems, write_rows
from rsgrpo.tracking.spool import read_spool
from tests.test_real_input import make_checkpoint

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
REWARDS = """
def short_answers(completions, problem, answer, **columns):
    return [1.0 / (1 + len(completion)) for completion in completions]
"""
# The example's sizes are those of a GPU.
SMALL = [
    "policy.checkpoint=qwen",
    "training.steps=1",
    "training.save_every=1",
    "training.prompts_per_step=2",
    "training.num_generations=2",
    "training.gradient_accumulation=1",
    "training.max_completion_length=8",
    "sampling.n=1",
    "sampling.max_new_tokens=4",
    "evaluation.ks=[1]",
    "evaluation.headline_k=1",
]


def example(language: str, words: str) -> str:
    """Return the README's one block in a language that holds the words."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.S)
    [block] = [block for block in blocks if words in block]
    return str(block)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the example names: its config, its files, two prepared sets, a policy."""
    (tmp_path / "my_study.yaml").write_text(example("yaml", "name: my-study"))
    for name in ("mine", "my_benchmark", "aime24", "math500"):
        rows = [
            {"id": str(i), "problem": f"What is {i} plus {i} in {name}?", "answer": str(2 * i)}
            for i in range(4)
        ]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    monkeypatch.setenv("RSGRPO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rsgrpo(tmp_path, "data", "prepare", "--source", ".", "aime24", "math500")
    texts = [problem.problem for problem in read_problems(tmp_path / "mine.jsonl")]
    make_checkpoint(tmp_path / "qwen", texts)
    return tmp_path


def rsgrpo(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", "from rsgrpo.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_example_of_ones_own_data_trains_and_evaluates(folder: Path) -> None:
    small = [word for override in SMALL for word in ("--set", override)]
    trained = rsgrpo(folder, "train", "-c", "my_study.yaml", *small).strip().splitlines()[-1]
    printed = rsgrpo(folder, "evaluate", trained, "-c", "my_study.yaml", *small)
    for benchmark in ("aime24", "math500", "my_benchmark"):
        assert benchmark in printed


def test_the_example_of_ones_own_reward_is_the_one_that_trains(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = tomllib.loads(example("toml", "rsgrpo.rewards"))["project"]["entry-points"]
    [(name, target)] = entries["rsgrpo.rewards"].items()
    module = Path(*target.partition(":")[0].split("."))
    site, information = folder / "site", folder / "site" / "my_package-1.dist-info"
    information.mkdir(parents=True)
    (site / module.parent).mkdir()
    (site / module.parent / "__init__.py").touch()
    (site / module).with_suffix(".py").write_text(REWARDS)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (information / "entry_points.txt").write_text(f"[rsgrpo.rewards]\n{name} = {target}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    [inline] = re.findall(r"`training: (\{reward: \w+\})`", README)
    named = f"training.reward={yaml.safe_load(inline)['reward']}"
    small = [word for override in [*SMALL, named] for word in ("--set", override)]
    trained = rsgrpo(folder, "train", "-c", "my_study.yaml", *small).strip().splitlines()[-1]
    spool = read_spool(folder / trained / "spool.jsonl")
    [metrics] = [record["values"] for record in spool if record["kind"] == "metrics"]
    assert 0 < metrics["reward"] < 1
