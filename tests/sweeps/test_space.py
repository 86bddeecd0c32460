"""The space of a sweep: read, listed, suggested, laid into the config."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgrpo.config import Config, load_config
from rsgrpo.config_training import ScheduleConfig
from sweeps.config import Parameter, SweepConfig, alternatives
from sweeps.space import (
    Sweep,
    check_space,
    decoded,
    encoded,
    grid_points,
    load_sweep,
    suggest,
    trial_config,
)

SCHEDULE = "training.risk_beta"
SEEK = "objectives: [pass_at_1]"
TPE = "trials: 5, sampler: {name: tpe}"

# Choices, stepped and free ranges that any combination of keeps the config valid.
CHOICES: dict[str, list[Any]] = {
    "training.temperature": [0.5, 1.0, 2.0],
    "training.dynamic_sampling": ["off", "drop", "refill"],
    "training.trl": [{}, {"loss_type": "grpo"}, {"beta": 0.1}],
    "training.steps": [10, 20],
    "policy.pretrain.tier_mix": [[1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
}
STEPPED: dict[str, dict[str, Any]] = {
    "training.clip_high": {"low": 0.2, "high": 0.45, "step": 0.1},
    "training.num_generations": {"low": 4, "high": 9, "step": 2},
}
FREE: dict[str, dict[str, Any]] = {
    "training.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
    "training.weight_decay": {"low": 0.0, "high": 0.1},
    "training.save_every": {"low": 1, "high": 100, "log": True},
    "training.max_refill_rounds": {"low": 1, "high": 6},
}


@st.composite
def spaces(draw: st.DrawFn, free: bool) -> SweepConfig:
    """A space of up to five keys with conditions, also chained ones, in any order."""
    pool = [*CHOICES, *STEPPED, *(FREE if free else ())]
    keys = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=5, unique=True))
    space: dict[str, dict[str, Any]] = {}
    for key in keys:
        number = STEPPED.get(key) or FREE.get(key)
        parameter = number or {"values": draw(st.permutations(CHOICES[key]))}
        space[key] = {**parameter, "when": draw(conditions(space))}
    shuffled = {key: space[key] for key in draw(st.permutations(keys))}
    return sweep_of(shuffled, trials=3, sampler={"name": "random" if free else "grid"})


@st.composite
def conditions(draw: st.DrawFn, space: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Conditions on some of the keys of a space that have points."""
    able = {key: p for key, raw in space.items() if (p := Parameter.model_validate(raw)).points}
    when: dict[str, Any] = {}
    for key in draw(st.sets(st.sampled_from(sorted(able)), max_size=2)) if able else ():
        count = len(able[key].points)
        chosen = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=2, unique=True))
        when[key] = [able[key].points[index] for index in chosen]
    return when


def sweep_of(space: Mapping[str, Any], **more: Any) -> SweepConfig:
    return SweepConfig.model_validate({"space": space, "objectives": ["pass_at_1"], **more})


def one(values: list[Any], **when: Any) -> dict[str, Any]:
    return {"values": values, "when": when}


def load(folder: Path, text: str, *overrides: str) -> Sweep:
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return load_sweep(path, overrides)


def keyed(point: Mapping[str, Any]) -> str:
    return json.dumps(point, sort_keys=True)


def brute_force(sweep: SweepConfig) -> set[str]:
    """Every full assignment, less the keys whose conditions do not hold in it."""

    def there(key: str, full: Mapping[str, Any]) -> bool:
        when = sweep.space[key].when.items()
        return all(there(k, full) and full[k] in alternatives(wanted) for k, wanted in when)

    choices = [parameter.points for parameter in sweep.space.values()]
    assignments = (dict(zip(sweep.space, v, strict=True)) for v in itertools.product(*choices))
    return {keyed({k: v for k, v in full.items() if there(k, full)}) for full in assignments}


@settings(deadline=None)
@given(spaces(free=False))
def test_a_grid_is_every_assignment_without_the_keys_that_do_not_exist(sweep: SweepConfig) -> None:
    points = [keyed(point) for point in grid_points(sweep)]
    assert len(points) == len(set(points))
    assert set(points) == brute_force(sweep)


def test_a_grid_by_hand() -> None:
    kind = f"{SCHEDULE}.schedule"
    sweep = sweep_of(
        {
            f"{SCHEDULE}.end": one([1], **{kind: "linear"}),
            kind: one(["constant", "linear"]),
            "training.steps": {"low": 10, "high": 25, "step": 10},
        }
    )
    assert grid_points(sweep) == [
        {kind: "constant", "training.steps": 10},
        {kind: "constant", "training.steps": 20},
        {kind: "linear", f"{SCHEDULE}.end": 1, "training.steps": 10},
        {kind: "linear", f"{SCHEDULE}.end": 1, "training.steps": 20},
    ]


def test_conditions_may_be_chained() -> None:
    sweep = sweep_of({"c": one([5], b=2), "b": one([2, 3], a=1), "a": one([0, 1])})
    assert grid_points(sweep) == [{"a": 0}, {"a": 1, "b": 2, "c": 5}, {"a": 1, "b": 3}]


def test_a_step_is_counted_in_decimals() -> None:
    tenths = Parameter(low=0, high=1, step=0.1)
    assert tenths.points == tuple(tenth / 10 for tenth in range(11))
    assert not tenths.integers
    assert Parameter(low=8, high=37, step=8).points == (8, 16, 24, 32)
    assert Parameter(low=0.2, high=0.45, step=0.1).ends == (0.2, 0.4)


@settings(deadline=None, max_examples=60)
@given(spaces(free=True), st.integers(0, 1000))
def test_every_suggested_point_gives_a_valid_config(sweep: SweepConfig, seed: int) -> None:
    check_space(Sweep(Config(), sweep))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    for _ in range(3):
        trial = study.ask()
        point = suggest(trial, sweep)
        assert point.keys() == {k for k, p in sweep.space.items() if p.exists(point)}
        assert decoded(trial.params, sweep) == point
        assert trial.params == pytest.approx(encoded(point))
        for key in STEPPED.keys() & point.keys():
            assert point[key] in sweep.space[key].points
        config = trial_config(Config(), point, seed).model_dump()
        assert config["training"].pop("seed") == seed
        for key, value in point.items():
            found: Any = config
            for name in key.split("."):
                found = found[name]
            assert found == (tuple(value) if isinstance(value, list) else value)


@settings(deadline=None, max_examples=60)
@given(spaces(free=False))
def test_an_enqueued_point_of_a_grid_comes_back_as_it_was(sweep: SweepConfig) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    points = grid_points(sweep)[:5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for point in points:
            study.enqueue_trial(encoded(point))
            assert suggest(study.ask(), sweep) == point


@settings(deadline=None)
@given(spaces(free=True))
def test_a_sweep_survives_the_way_through_json(sweep: SweepConfig) -> None:
    again = SweepConfig.model_validate_json(sweep.model_dump_json())
    assert again == sweep
    assert list(again.space) == list(sweep.space)
    assert [p.integers for p in again.space.values()] == [p.integers for p in sweep.space.values()]


def test_points_are_read_back_from_a_database(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    sweep = sweep_of({"training.trl": one(CHOICES["training.trl"]), "training.steps": one([5, 9])})
    study = optuna.create_study(storage=storage, study_name="s")
    for point in grid_points(sweep):
        study.enqueue_trial(encoded(point))
    asked = [suggest(study.ask(), sweep) for _ in grid_points(sweep)]
    stored = optuna.load_study(storage=storage, study_name="s").get_trials()
    assert asked == [decoded(trial.params, sweep) for trial in stored] == grid_points(sweep)


def test_a_trial_that_was_begun_keeps_what_it_has() -> None:
    sweep = sweep_of(FREE, trials=1, sampler={"name": "random"})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    trial = study.ask()
    first = trial.suggest_float("training.weight_decay", 0.0, 0.1)
    again = optuna.trial.Trial(study, trial._trial_id)
    point = suggest(again, sweep)
    assert point["training.weight_decay"] == first
    assert suggest(optuna.trial.Trial(study, trial._trial_id), sweep) == point


def test_a_trial_is_the_study_with_its_point_and_seed() -> None:
    config = load_config(None, ["training.steps=7", "training.seed=3"])
    made = trial_config(config, {"training.risk_beta": 4, "policy.layers": 3}, 11)
    assert (made.training.risk_beta, made.policy.layers, made.training.seed) == (4.0, 3, 11)
    assert made.training.steps == 7
    assert trial_config(config, {}, 3) == config


def test_a_key_below_beta_makes_a_number_a_schedule() -> None:
    point = {f"{SCHEDULE}.schedule": "linear", f"{SCHEDULE}.start": 8, f"{SCHEDULE}.end": 1}
    made = trial_config(Config(), point, 0).training.risk_beta
    assert made == ScheduleConfig(schedule="linear", start=8, end=1)


def test_a_schedule_keeps_what_its_kind_takes() -> None:
    config = load_config(None, ["training.risk_beta={schedule: linear, start: 8, end: 1}"])

    def beta(**chosen: Any) -> Any:
        point = {f"{SCHEDULE}.{key}": value for key, value in chosen.items()}
        return trial_config(config, point, 0).training.risk_beta

    assert beta(end=2) == ScheduleConfig(schedule="linear", start=8, end=2)
    assert beta(schedule="cosine") == ScheduleConfig(schedule="cosine", start=8, end=1)
    assert beta(schedule="constant") == ScheduleConfig(schedule="constant", start=8)
    phases = ScheduleConfig(schedule="phases", values=(8, 1), at=(0.5,))
    assert beta(schedule="phases", values=[8, 1], at=[0.5]) == phases


def test_a_whole_schedule_is_a_value(tmp_path: Path) -> None:
    linear = "{schedule: linear, start: 8, end: 1}"
    text = f"sweep: {{space: {{training.risk_beta: {{values: [2, {linear}]}}}}, {SEEK}}}"
    sweep = load(tmp_path, text)
    check_space(sweep)
    betas = [trial_config(sweep.config, p, 0).training.risk_beta for p in grid_points(sweep.sweep)]
    assert betas == [2.0, ScheduleConfig(schedule="linear", start=8, end=1)]


def test_a_file_is_a_study_and_its_sweep(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: mine\ntraining: {steps: 9}\n", encoding="utf-8")
    text = (
        f"training: {{steps: 5}}\nsweep: {{space: {{policy.layers: {{values: [1, 2]}}}}, {SEEK}}}"
    )
    (tmp_path / "sweep.yaml").write_text(text, encoding="utf-8")
    both = load_sweep([tmp_path / "study.yaml", tmp_path / "sweep.yaml"], ["training.steps=3"])
    assert both.config == load_config(tmp_path / "study.yaml", ["training.steps=3"])
    assert both.sweep.space["policy.layers"].values == (1, 2)
    assert both.sweep.objectives[0].metric == "pass_at_1"


def test_overrides_reach_the_sweep_and_its_space(tmp_path: Path) -> None:
    space = (
        "{training.learning_rate: {low: 1e-5, high: 1e-3, log: true}, policy.layers: {values: [1]}}"
    )
    text = f"sweep: {{space: {space}, {TPE}, {SEEK}}}"
    sweep = load(
        tmp_path,
        text,
        "sweep.trials=20",
        "sweep.space.training.learning_rate.low=1e-4",
        "sweep.space.policy.layers={values: [1, 2]}",
        "sweep.sampler.seed=3",
    ).sweep
    assert (sweep.trials, sweep.sampler.name, sweep.sampler.seed) == (20, "tpe", 3)
    assert sweep.space["training.learning_rate"] == Parameter(low=1e-4, high=1e-3, log=True)
    assert sweep.space["policy.layers"].values == (1, 2)


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    text = f"sweep: {{space: {{training.learning_rate: {{values: [1e-5, 3e-4]}}}}, {SEEK}}}"
    assert load(tmp_path, text).sweep.space["training.learning_rate"].values == (1e-5, 3e-4)
