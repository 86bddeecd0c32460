"""The space of a sweep: read, refused, listed, suggested, laid into the config."""

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
from rsgrpo.errors import UserError
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
CHOICES = {
    "training.temperature": [0.5, 1.0, 2.0],
    "training.dynamic_sampling": ["off", "drop", "refill"],
    "training.trl": [{}, {"loss_type": "grpo"}, {"beta": 0.1}],
    "training.steps": [10, 20],
    "policy.pretrain.tier_mix": [[1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
}
STEPPED = {
    "training.clip_high": {"low": 0.2, "high": 0.45, "step": 0.1},
    "training.num_generations": {"low": 4, "high": 9, "step": 2},
}
FREE = {
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


def refusal(folder: Path, text: str, *overrides: str) -> str:
    """Return the sentence with which a file is refused, at the latest before anything runs."""
    with pytest.raises(UserError) as fault:
        check_space(load(folder, text, *overrides))
    assert "\n" not in str(fault.value)
    return str(fault.value).replace(str(folder / "sweep.yaml"), "FILE")


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
        assert trial.params == encoded(point)
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


@pytest.mark.parametrize(
    ("branch", "sentence"),
    [
        ("{}", "config key sweep.space: Field required"),
        ("{spce: {}}", "unknown config key 'sweep.spce': did you mean sweep.space? in FILE"),
        (
            f"{{space: {{training.risk_beta: {{vales: [1]}}}}, {SEEK}}}",
            "unknown config key 'sweep.space.training.risk_beta.vales': "
            "did you mean sweep.space.training.risk_beta.values? in FILE",
        ),
        (
            "{space: {policy.layers: {values: [1]}}, objectives: [{metrik: auc}]}",
            "unknown config key 'sweep.objectives.0.metrik': "
            "did you mean sweep.objectives.0.metric? in FILE",
        ),
        (
            f"{{space: {{policy.layers: {{low: 4, high: 1}}}}, {SEEK}}}",
            "config key sweep.space.policy.layers in FILE: "
            "a range needs low and high, low not above high",
        ),
        (
            f"{{space: {{policy.layers: {{values: [1, 1]}}}}, {SEEK}}}",
            "config key sweep.space.policy.layers in FILE: "
            "values must name a value once, and 1 is there twice",
        ),
        (
            f"{{space: {{policy.layers: {{values: [1], log: true}}}}, {SEEK}}}",
            "config key sweep.space.policy.layers in FILE: "
            "log and step belong to a range: give low and high, or remove them",
        ),
        (
            f"{{space: {{policy.layers: {{low: 1, high: 2}}}}, sampler: {{name: tpe}}, {SEEK}}}",
            "config key sweep in FILE: sweep.sampler.name is tpe: "
            "say in sweep.trials how many to run",
        ),
        (
            f"{{space: {{policy.layers: {{low: 1, high: 2}}}}, sampler: {{name: bayes}}, {SEEK}}}",
            "config key sweep.sampler.name in FILE: "
            "Input should be 'grid', 'random', 'tpe' or 'nsga2', got 'bayes'",
        ),
        (
            "{space: {policy.layers: {values: [1]}}, objectives: [auc, auc]}",
            "config key sweep in FILE: "
            "sweep.seeds and sweep.objectives must each name a value once",
        ),
        (
            "{space: {policy.layers: {values: [1]}}, objectives: [auc], "
            "constraints: [{metric: training/entropy, at_least: base}]}",
            "config key sweep.constraints.0 in FILE: the base policy is not trained, "
            "so it has no training/entropy: give a number",
        ),
        (
            "{space: {policy.layers: {values: [1]}}, objectives: [auc, pass_at_1], "
            "pruner: {name: asha}}",
            "config key sweep in FILE: sweep.pruner is asha and there are 2 objectives: "
            "Optuna prunes studies of one alone; set it to none and use sweep.stops",
        ),
    ],
)
def test_a_bad_branch_is_refused_in_one_sentence(
    tmp_path: Path, branch: str, sentence: str
) -> None:
    assert refusal(tmp_path, f"sweep: {branch}") == sentence


def test_faults_of_the_study_are_named_as_ever(tmp_path: Path) -> None:
    branch = f"sweep: {{space: {{policy.layers: {{values: [1]}}}}, {SEEK}}}"
    unknown = refusal(tmp_path, f"training: {{stps: 3}}\n{branch}")
    assert unknown == "unknown config key 'training.stps': did you mean training.steps? in FILE"
    met = refusal(tmp_path, branch, "training.steps=0")
    assert met.startswith("config key training.steps in --set: ") and met.endswith("got 0")


def test_a_study_without_a_sweep_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, "name: mine")
    assert said.startswith("FILE has no branch sweep: say there what varies (sweep.space)")


SCHEDULED = "training.risk_beta.start: {values: [1]}"
BY_ESTIMATOR = "training.advantage.name: {values: [rs_grpo, grpo]}"


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (
            "training.risk_bta: {values: [1]}",
            "unknown config key 'training.risk_bta': did you mean training.risk_beta? "
            "in sweep.space, at training.risk_bta = 1",
        ),
        ("training.steps.x: {values: [1]}", "config key training.steps in sweep.space: "),
        (
            "training.risk_beta: {values: [1, high]}",
            "config key training.risk_beta in sweep.space: Input should be a valid number, unable "
            "to parse string as a number, got 'high', at training.risk_beta = high",
        ),
        (
            "training.steps: {low: 0, high: 9, step: 3}",
            "config key training.steps in sweep.space: Input should be greater than or equal to 1, "
            "got 0, at training.steps = 0",
        ),
        (
            "training.num_generations: {values: [8, 5]}, "
            "training.prompts_per_step: {values: [4, 7]}",
            "config key training in sweep.space: prompts_per_step * num_generations = 35 "
            "completions cannot be split evenly into minibatches * gradient_accumulation = 2: "
            "change one of them, at training.num_generations = 5, training.prompts_per_step = 7",
        ),
        (
            "training.learning_rate: {low: 1e-5, high: 1e-3, log: true}",
            "config key sweep.space.training.learning_rate is a range from 1e-05 to 0.001: a grid "
            "needs its step, or values; or choose another sweep.sampler.name",
        ),
        (
            "training.seed: {values: [1]}",
            "config key sweep.space.training.seed cannot vary: "
            "sweep.seeds lists the seeds that every trial has",
        ),
        (
            "training: {values: [{seed: 1}]}",
            "config key sweep.space.training cannot vary: "
            "sweep.seeds lists the seeds that every trial has",
        ),
        (
            "sampling.split: {values: [test]}",
            "config key sweep.space.sampling.split cannot vary: sampling.split decides what trials "
            "are measured by, so set it for all of them",
        ),
        ("evaluation.ks: {values: [[1]]}", "config key sweep.space.evaluation.ks cannot vary: "),
        ("data.benchmarks: {values: [{}]}", "config key sweep.space.data.benchmarks cannot vary: "),
        ("study.seeds: {values: [[1]]}", "config key sweep.space.study.seeds cannot vary: "),
        ("name: {values: [a]}", "config key sweep.space.name cannot vary: "),
        (
            f"training.risk_beta: {{values: [1]}}, {SCHEDULED}",
            "config key sweep.space.training.risk_beta overlaps with training.risk_beta.start, "
            "which varies too: remove one of them",
        ),
        (
            SCHEDULED,
            "sweep.space varies training.risk_beta.start, but training.risk_beta is a number: vary "
            "training.risk_beta.schedule too, or write a schedule under it, "
            "at training.risk_beta.start = 1",
        ),
        (
            "policy.layers: {values: [1], when: {policy.heads: 2}}",
            "config key sweep.space.policy.layers.when names policy.heads, "
            "which does not vary: add it to sweep.space",
        ),
        (
            f"{BY_ESTIMATOR}, "
            "training.risk_beta: {values: [1], when: {training.advantage.name: rs_grp}}",
            "config key sweep.space.training.risk_beta.when names training.advantage.name = "
            "'rs_grp', which it never is: it has rs_grpo, grpo",
        ),
        (
            f"{BY_ESTIMATOR}, training.risk_beta: {{values: [1, 2]}}",
            "config key sweep.space.training.risk_beta varies although grpo has no risk "
            "parameter, so trials would repeat each other: add "
            "when: {training.advantage.name: rs_grpo}",
        ),
        (
            "policy.layers: {values: [1], when: {policy.heads: 2}}, "
            "policy.heads: {values: [2], when: {policy.layers: 1}}",
            "the conditions of sweep.space go in a circle: "
            "policy.layers, policy.heads wait for each other",
        ),
        (
            "training.weight_decay: {low: 0.0, high: 1.0, step: 0.000001}",
            "the grid of sweep.space has more than 100000 points: give fewer values, "
            "or choose another sweep.sampler.name",
        ),
    ],
)
def test_a_space_that_cannot_run_is_refused(tmp_path: Path, space: str, sentence: str) -> None:
    assert refusal(tmp_path, f"sweep: {{space: {{{space}}}, {SEEK}}}").startswith(sentence)


def test_a_condition_needs_a_key_that_has_values(tmp_path: Path) -> None:
    space = (
        "training.risk_beta: {low: 0.0, high: 8.0}, "
        "policy.layers: {values: [1], when: {training.risk_beta: 2}}"
    )
    said = refusal(tmp_path, f"sweep: {{space: {{{space}}}, {TPE}, {SEEK}}}")
    assert said == (
        "config key sweep.space.policy.layers.when names training.risk_beta, a range without a "
        "step: a condition needs one that has values"
    )


def test_both_ends_and_the_inside_of_a_range_are_tried(tmp_path: Path) -> None:
    for space, met in [
        ("sampling.top_p: {low: 0.5, high: 1.5}", "got 1.5"),
        ("sampling.top_p: {low: 0.0, high: 1.0}", "got 0.0"),
        ("training.steps: {low: 10.0, high: 100.0}", "valid integer"),
    ]:
        assert met in refusal(tmp_path, f"sweep: {{space: {{{space}}}, {TPE}, {SEEK}}}")


def test_the_base_that_a_constraint_compares_with_is_one(tmp_path: Path) -> None:
    bound = "constraints: [{metric: pass_at_1, at_least: base}]"
    text = f"sweep: {{space: {{policy.layers: {{values: [1, 2]}}}}, {SEEK}, {bound}}}"
    said = refusal(tmp_path, text)
    assert said.startswith("config key sweep.space.policy.layers changes the base policy's own")
    check_space(load(tmp_path, text, "sweep.constraints=[{metric: pass_at_1, at_least: 0.3}]"))


def test_the_pruner_cannot_look_beyond_a_group(tmp_path: Path) -> None:
    space = "training.num_generations: {values: [8, 16]}"
    text = f"sweep: {{space: {{{space}}}, {SEEK}, pruner: {{name: asha, k: 16}}}}"
    said = refusal(tmp_path, text)
    assert said.startswith("sweep.pruner.k is 16, but training.num_generations is 8, at training.")
    check_space(load(tmp_path, text, "sweep.pruner.k=8"))


def test_a_large_space_is_tried_in_a_thousand_points(tmp_path: Path) -> None:
    keys = ["training.clip_low", "training.clip_high", "training.temperature", "sampling.top_p"]
    space = ", ".join(f"{key}: {{low: 0.1, high: 0.9, step: 0.1}}" for key in keys)
    check_space(load(tmp_path, f"sweep: {{space: {{{space}}}, {SEEK}}}"))
    worse = space.replace("0.9", "1.1", 1).replace("training.clip_low", "sampling.temperature")
    worse = worse.replace(
        "sampling.top_p: {low: 0.1, high: 0.9", "sampling.top_p: {low: 0.1, high: 1.1"
    )
    assert "sampling.top_p" in refusal(tmp_path, f"sweep: {{space: {{{worse}}}, {SEEK}}}")
