"""The sweep's Optuna study: nothing lost, nothing repeated, whatever process died."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from rsgrpo.config import Config, load_config
from sweeps.beta_study import (
    SeedValue,
    next_betas,
    open_study,
    seed_value,
    study_name,
    tell,
    tell_failure,
)

SEEDS = [SeedValue(0, 0.25, 0.5), SeedValue(1, 0.75, 1.0)]


def config(*overrides: str) -> Config:
    return load_config(None, ["study.risk_betas=[0,2,4]", "study.seeds=[0,1]", *overrides])


def betas(study: optuna.Study, of: Config) -> list[tuple[int, float]]:
    return list(next_betas(study, of.study.risk_betas))


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.trials]


def test_the_grid_is_asked_for_once_in_order_and_told_means_over_seeds(tmp_path: Path) -> None:
    study = open_study(config(), tmp_path)
    assert states(study) == [TrialState.WAITING] * 3
    assert betas(study, config()) == [(0, 0.0), (1, 2.0), (2, 4.0)]
    for number in range(3):
        tell(study, number, SEEDS)
    again = open_study(config(), tmp_path)
    assert betas(again, config()) == []
    assert [trial.values for trial in again.trials] == [[0.5, 0.75]] * 3
    assert again.trials[0].user_attrs == {
        "seeds": [0, 1],
        "pass_at_1_by_seed": [0.25, 0.75],
        "pass_at_k_by_seed": [0.5, 1.0],
    }
    assert again.metric_names == ["pass_at_1", "pass_at_64"]


def test_a_trial_whose_process_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from rsgrpo.config import load_config\n"
        "from sweeps.beta_study import next_betas, open_study\n"
        "config = load_config(None, ['study.risk_betas=[0,2,4]', 'study.seeds=[0,1]'])\n"
        "study = open_study(config, Path(sys.argv[1]))\n"
        "next(next_betas(study, config.study.risk_betas))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=120)
    assert done.returncode == -9
    study = open_study(config(), tmp_path)
    assert states(study) == [TrialState.RUNNING, TrialState.WAITING, TrialState.WAITING]
    assert betas(study, config()) == [(0, 0.0), (1, 2.0), (2, 4.0)]
    assert len(study.trials) == 3


def test_a_failed_trial_keeps_its_reason_and_is_tried_again(tmp_path: Path) -> None:
    study = open_study(config(), tmp_path)
    betas(study, config())
    for number in (0, 2):
        tell(study, number, SEEDS)
    tell_failure(study, 1, "the disk was full")
    again = open_study(config(), tmp_path)
    assert again.trials[1].user_attrs["failure"] == "the disk was full"
    assert betas(again, config()) == [(3, 2.0)]


def test_betas_are_added_to_a_study_and_nothing_is_repeated(tmp_path: Path) -> None:
    study = open_study(config(), tmp_path)
    for number, _ in betas(study, config()):
        tell(study, number, SEEDS)
    more = config("study.risk_betas=[2,8,16]")
    assert study_name(more) == study_name(config())
    assert betas(open_study(more, tmp_path), more) == [(3, 8.0), (4, 16.0)]


def test_a_narrower_grid_takes_out_what_waits_and_a_wider_one_brings_it_back(
    tmp_path: Path,
) -> None:
    open_study(config(), tmp_path)
    narrow = config("study.risk_betas=[2]")
    assert betas(open_study(narrow, tmp_path), narrow) == [(1, 2.0)]
    assert betas(open_study(config(), tmp_path), config()) == [(1, 2.0), (3, 0.0), (4, 4.0)]
    none = config("study.risk_betas=[]")
    assert betas(open_study(none, tmp_path), none) == []


def test_other_code_or_data_is_another_study() -> None:
    assert study_name(config(), "a b") != study_name(config(), "a c")


@pytest.mark.parametrize("changed", ["training.steps=7", "study.seeds=[0]", "sampling.n=64"])
def test_other_settings_are_another_study(changed: str) -> None:
    assert study_name(config(changed)) != study_name(config())


def test_telling_twice_changes_nothing(tmp_path: Path) -> None:
    study = open_study(config(), tmp_path)
    betas(study, config())
    tell(study, 0, SEEDS)
    tell(study, 0, [SeedValue(0, 0.0, 0.0)])
    tell_failure(study, 0, "late")
    assert study.trials[0].values == [0.5, 0.75]
    assert "failure" not in study.trials[0].user_attrs


def test_the_optuna_command_line_reads_the_same_storage(tmp_path: Path) -> None:
    study = open_study(config(), tmp_path)
    betas(study, config())
    tell(study, 0, SEEDS)
    command = [str(Path(sys.executable).with_name("optuna")), "trials", "-f", "json"]
    store = ["--storage", f"sqlite:///{tmp_path / 'optuna.db'}", "--study-name", study.study_name]
    done = subprocess.run([*command, *store], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["state"] for row in rows] == ["COMPLETE", "RUNNING", "RUNNING"]


def test_a_seeds_values_are_those_of_the_mean_over_benchmarks() -> None:
    rows = [
        {"benchmark": benchmark, "k": k, "pass_at_k": value}
        for benchmark, value in (("T1", 0.1), ("T2", 0.3), ("mean", 0.2))
        for k, value in ((1, value), (4, 2 * value))
    ]
    assert seed_value(rows, 3, 4) == SeedValue(3, 0.2, 0.4)
    assert seed_value(rows[:2], 3, 4) == SeedValue(3, 0.1, 0.2)
