"""What each part needs, tried in environments that hold nothing else."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PASSK = """
import numpy, sys
from rsgrpo.evaluation.passk import pass_at_k
print(pass_at_k([1], [4], [1, 4]).round(12).tolist())
print([name for name in ("torch", "pyarrow", "pydantic", "mlflow") if name in sys.modules])
"""
ADVANTAGE = """
import torch
from rsgrpo.advantages import rs_grpo
print([round(x, 4) for x in rs_grpo(torch.tensor([[1.0, 0, 0, 0]]), 2.0)[0].tolist()])
"""
GRADED = """
import pyarrow, pyarrow.parquet
rows = [{"benchmark": "b", "problem_id": "p", "correct": i == 0} for i in range(4)]
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "graded.parquet")
"""


class Environment:
    """A virtual environment of its own, with rsgrpo installed as a wheel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", with_pip=True)
        self.install(str(CHECKOUT))

    def install(self, what: str) -> None:
        constraints = str(CHECKOUT / "constraints.txt")
        self.run("pip", "install", "-q", "-c", constraints, what, seconds=900)

    def run(self, program: str, *arguments: str, seconds: float = 120) -> str:
        done = self.attempt(program, *arguments, seconds=seconds)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(
        self, program: str, *arguments: str, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        command = [str(self.folder / "venv" / "bin" / program), *arguments]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=seconds
        )


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("fresh"))


@pytest.mark.slow
def test_core_alone_gives_pass_at_k(fresh: Environment) -> None:
    assert fresh.run("python", "-c", PASSK).splitlines() == ["[[0.25, 1.0]]", "[]"]
    fresh.run("python", "-c", GRADED)
    assert "0.25" in fresh.run("rsgrpo", "passk", "graded.parquet", "--k", "1")


@pytest.mark.slow
def test_a_verb_of_another_floor_says_that_it_needs_a_checkout(fresh: Environment) -> None:
    done = fresh.attempt("rsgrpo", "demo", "--quick")
    assert done.returncode == 2
    assert "needs the folder flows/, which only a checkout has" in done.stderr
    wheel = fresh.run("python", "-c", "import importlib.util as u; print(u.find_spec('flows'))")
    assert wheel.strip() == "None"


@pytest.mark.slow
def test_a_verb_without_its_packages_names_the_extra(fresh: Environment) -> None:
    for arguments, extra in (
        (["sync", "."], "pip install -e '.[track]'"),
        (["grade", "rollouts.jsonl", "-o", "g.parquet"], "pip install -e '.[grade]'"),
    ):
        (fresh.folder / "spool.jsonl").touch()
        row = '{"problem_id": "p", "problem": "x", "answer": "1", "sample_index": 0, '
        (fresh.folder / "rollouts.jsonl").write_text(row + '"completion": "\\\\boxed{1/1}"}\n')
        done = fresh.attempt("rsgrpo", *arguments)
        assert done.returncode == 2
        assert extra in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_core_and_torch_give_the_advantage(fresh: Environment) -> None:
    fresh.install("torch")
    expected = "[0.9225, -0.3075, -0.3075, -0.3075]"
    assert fresh.run("python", "-c", ADVANTAGE).strip() == expected
