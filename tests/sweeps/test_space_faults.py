"""What a sweep is refused for, before anything runs, each in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsgrpo.errors import UserError
from sweeps.space import Sweep, check_space, load_sweep

SEEK = "objectives: [pass_at_1]"
TPE = "trials: 5, sampler: {name: tpe}"
SCHEDULED = "training.risk_beta.start: {values: [1]}"
BY_ESTIMATOR = "training.advantage.name: {values: [rs_grpo, grpo]}"


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
            f"{{space: {{policy.layers: {{low: .nan, high: 1}}}}, {SEEK}}}",
            "config key sweep.space.policy.layers.low in FILE: "
            "Input should be a finite number, got nan",
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
