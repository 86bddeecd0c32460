"""The sweep over beta of a study's config: its grid is the study's own runs, told apart by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsgrpo.config import Config, load_config
from rsgrpo.study import base_policy, study_configs, trained_run
from sweeps.beta_study import beta_sweep_of, study_name
from sweeps.space import grid_points, trial_config
from sweeps.storage import default_storage
from sweeps.study import create


def config(*overrides: str) -> Config:
    return load_config(None, ["study.risk_betas=[0,2,4]", "study.seeds=[0,1]", *overrides])


def test_the_units_of_the_grid_are_the_runs_of_the_study() -> None:
    study = config("study.grpo=false")
    plan = beta_sweep_of(study)
    units = [
        trial_config(plan.config, point, seed)
        for point in grid_points(plan.sweep)
        for seed in plan.sweep.seeds
    ]
    runs = [trained_run(unit, base_policy(unit)) for unit in units]
    wanted = [trained_run(one, base_policy(one)) for one in study_configs(study)]
    assert [run.name for run in runs] == [run.name for run in wanted]
    assert [unit.training for unit in units] == [one.training for one in study_configs(study)]
    assert [run.score.config.sampling for run in runs] == [
        run.score.config.sampling for run in wanted
    ]


def test_pass_at_1_and_at_the_headline_k_are_sought() -> None:
    objectives = beta_sweep_of(config("evaluation.headline_k=4")).sweep.objectives
    assert [one.metric for one in objectives] == ["pass_at_1", "pass_at_4"]
    assert {one.direction for one in objectives} == {"maximize"}


def test_the_same_study_is_opened_again_whatever_stands_beside_its_grid(tmp_path: Path) -> None:
    name, storage = study_name(config()), default_storage(tmp_path)
    first = create(beta_sweep_of(config()), storage, name, tmp_path)
    beside = config("study.grpo=false", "study.headline_beta=2", "study.rollouts={a: b.jsonl}")
    assert study_name(beside) == name
    again = create(beta_sweep_of(beside), storage, name, tmp_path)
    assert again.plan == first.plan


def test_other_code_or_data_is_another_study() -> None:
    assert study_name(config(), "a b") != study_name(config(), "a c")


@pytest.mark.parametrize(
    "changed",
    ["training.steps=7", "study.seeds=[0]", "sampling.n=64", "study.risk_betas=[0,2,4,8]"],
)
def test_other_settings_are_another_study(changed: str) -> None:
    assert study_name(config(changed)) != study_name(config())
