"""`rsgrpo sweep run` and `resume`: planned, made once, refused with the key that differs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from flows import sweep_runs
from flows.sweep_commands import register
from flows.sweep_runs import open_or_make, place_of, read_plan, run_opened, sweep_lines
from rsgrpo.errors import UserError
from rsgrpo.worker import Execution
from sweeps.run import Result
from sweeps.storage import default_storage
from sweeps.study import Opened, target

BRANCH = {
    "space": {
        "training.risk_beta": {"values": [2.0, 4.0]},
        "training.learning_rate": {"low": 1e-6, "high": 1e-4, "log": True},
    },
    "sampler": {"name": "tpe"},
    "trials": 3,
    "seeds": [0, 1],
    "objectives": ["pass_at_1", "pass_at_64"],
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep's file, in a place whose only root is a folder of the test."""
    (tmp_path / "worker.yaml").write_text(f"roots: {{default: {tmp_path / 'out'}, other: .}}\n")
    monkeypatch.setenv("RSGRPO_WORKER", str(tmp_path / "worker.yaml"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RSGRPO_STORAGE", raising=False)
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"name": "lr", "sweep": BRANCH}, sort_keys=False))
    return path


def invoke(*words: str) -> Any:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["sweep", *words])


def opened_of(file: Path, *overrides: str) -> Opened:
    root = file.parent / "out"
    return open_or_make(read_plan([file], overrides), default_storage(root), "lr", root)


def test_the_plan_says_trials_runs_space_and_cost_and_makes_nothing(file: Path) -> None:
    lines = sweep_lines(read_plan([file], ()))
    assert lines[:4] == [
        "sweep       3 trials by tpe x 2 seeds = 6 runs",
        "objectives  maximize pass_at_1, maximize pass_at_64",
        "space       training.risk_beta: 2.0, 4.0",
        "space       training.learning_rate: 1e-06 to 0.0001, log",
    ]
    assert lines[4].startswith("hours       about ") and "= 6 runs x " in lines[4]
    done = invoke("run", str(file), "--dry-run")
    assert done.output.splitlines() == lines
    assert not (file.parent / "out").exists()


def test_a_changed_file_is_refused_with_the_first_key_that_differs(file: Path) -> None:
    opened_of(file)
    assert target(opened_of(file)) == 3
    with pytest.raises(UserError, match=r"training\.steps"):
        opened_of(file, "training.steps=7")
    with pytest.raises(UserError, match=r"sweep\.seeds"):
        opened_of(file, "sweep.seeds=[0]")


def test_a_study_is_not_run_in_another_root(file: Path) -> None:
    opened = opened_of(file)
    assert place_of(opened, Execution()).root == opened.root
    with pytest.raises(UserError, match="name the study's with --root"):
        place_of(opened, Execution(root="other"))


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Opened, Any]]:
    """What the engine is given; it ends at once, and nothing is shipped."""
    given: list[tuple[Opened, Any]] = []

    def run_sweep(opened: Opened, runner: Any, say: Any) -> Result:
        given.append((opened, runner))
        return Result("complete")

    @contextmanager
    def tracked(root: Path, uri: str | None) -> Iterator[None]:
        yield

    monkeypatch.setattr(sweep_runs, "run_sweep", run_sweep)
    monkeypatch.setattr(sweep_runs, "tracked", tracked)
    return given


def test_what_is_run_bears_the_studys_name_and_is_recorded_to_its_end(
    file: Path, ends: list[tuple[Opened, Any]]
) -> None:
    run_opened(opened_of(file), Execution(at_once=2), lambda line: None, max_failure_rate=0.25)
    [(opened, runner)] = ends
    assert opened.plan.config.name == opened.name
    assert opened.plan.sweep.max_failure_rate == 0.25
    assert runner.at_once == 2
    lines = (opened.root / "spool.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert {record["run"] for record in records} == {"lr"}
    assert (records[0]["kind"], records[-1]["kind"]) == ("start", "end")
    assert records[-1]["status"] == "FINISHED"


def test_resume_needs_no_file_and_makes_the_study_longer(
    file: Path, ends: list[tuple[Opened, Any]]
) -> None:
    opened_of(file)
    done = invoke("resume", "--study-name", "lr", "--failed", "--extend", "4", "--workers", "3")
    assert done.exit_code == 0, done.output
    [(opened, runner)] = ends
    assert (target(opened), runner.at_once) == (7, 3)
    assert "failed trials that are tried again: none" in done.output
    assert "study lr shall have 7 trials" in done.output
