"""The best trial and its interval; who cannot be told apart from it."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import optuna
import pytest

from rsgrpo.config import Config, load_config
from rsgrpo.errors import UserError
from rsgrpo.evaluation.compare import method_estimate, paired_difference
from rsgrpo.evaluation.passk import pass_at_k
from sweeps.best import Best, compare_trials, find_best, pareto_front
from sweeps.config import Objective
from sweeps.scored import PromptCounts, Scored, read_scored, trial_value
from sweeps.study import Opened
from tests.sweeps.made_studies import answers, complete, failed, made

GOOD = answers("cccc ccxc cxcc cccc cccc cccx", "cccc cccc ccxx cccc cccc ccxc")
POOR = answers("xxxx xxxc xxxx xxxx xxxx xxxx", "xxxx xxcx xxxx xxxx xxxx xxxx")
FAIR = answers("cxxx cxxx ccxx xxxx cxxx cxcx", "cxxx cxxx xxxx cxcx cxxx xxxx")


def _best(opened: Opened) -> Best:
    return find_best(opened.study.get_trials(), opened.plan, opened.root)


def test_a_value_has_the_interval_over_prompts_and_seeds(tmp_path: Path) -> None:
    opened = made(tmp_path)
    complete(opened, {"training.risk_beta": 2.0}, {0: FAIR, 1: GOOD})
    (trial,) = opened.study.get_trials()
    scored = read_scored(opened.root, trial, opened.plan.config)
    value = trial_value(scored, "pass_at_2", opened.plan.config)
    correct = [[t.count("c") for t in seed.values()] for seed in (FAIR, GOOD)]
    per_seed = [pass_at_k(c, [4] * 12, [2]) for c in correct]
    expected = method_estimate(per_seed, ["aime"] * 6 + ["math"] * 6, resamples=400)
    assert value.value == pytest.approx(trial.value)
    assert value.value == pytest.approx(float(expected.value_K[0]))
    assert (value.low, value.high) == pytest.approx((expected.low_K[0], expected.high_K[0]))
    assert value[5:] == ("prompts and seeds", 12, 4, 2)


def test_an_area_has_one_too_and_it_is_that_of_its_curve(tmp_path: Path) -> None:
    opened = made(tmp_path)
    complete(opened, {"training.risk_beta": 2.0}, {0: FAIR, 1: FAIR})
    scored = read_scored(opened.root, opened.study.get_trials()[0], opened.plan.config)
    area = trial_value(scored, "math/auc", opened.plan.config)
    per_prompt = pass_at_k([FAIR[p].count("c") for p in FAIR if p[0] == "math"], [4] * 6, [1, 2, 4])
    column = (per_prompt @ [0.25, 0.5, 0.25])[:, None]
    expected = method_estimate([column, column], resamples=400)
    assert area.value == pytest.approx(float(expected.value_K[0]))
    assert (area.low, area.high) == pytest.approx((expected.low_K[0], expected.high_K[0]))
    assert area.n_prompts == 6


def test_what_no_prompt_has_shows_the_spread_of_the_seeds(tmp_path: Path) -> None:
    opened = made(tmp_path)
    logged = {0: {"training/entropy": 1.0}, 1: {"training/entropy": 3.0}}
    complete(opened, {"training.risk_beta": 2.0}, {0: FAIR, 1: FAIR}, further=logged)
    scored = read_scored(opened.root, opened.study.get_trials()[0], opened.plan.config)
    value = trial_value(scored, "training/entropy", opened.plan.config)
    assert value[2:] == (2.0, 1.0, 3.0, "seeds, smallest to largest", None, None, 2)
    one = scored._replace(metrics_by_seed={0: scored.metrics_by_seed[0]})
    alone = trial_value(one, "training/entropy", opened.plan.config)
    assert alone.over == "nothing, one seed"
    assert math.isnan(alone.low)


def test_a_score_that_is_gone_leaves_the_spread_of_the_seeds(tmp_path: Path) -> None:
    opened = made(tmp_path)
    complete(opened, {"training.risk_beta": 2.0}, {0: FAIR, 1: GOOD})
    (opened.root / "score" / "trial0-seed1" / "prompts.parquet").unlink()
    scored = read_scored(opened.root, opened.study.get_trials()[0], opened.plan.config)
    assert trial_value(scored, "pass_at_2", opened.plan.config).over == "seeds, smallest to largest"


def test_clear_differences_are_told_apart_and_none_is_not(tmp_path: Path) -> None:
    opened = made(tmp_path)
    for beta, given in ((0.0, FAIR), (2.0, GOOD), (4.0, POOR), (8.0, GOOD)):
        complete(opened, {"training.risk_beta": beta}, {0: given, 1: given})
    failed(opened, {"training.risk_beta": 0.0}, "it broke")
    found = _best(opened)
    assert found.trials == [1]
    assert [(c.trial, c.apart) for c in found.comparisons] == [(3, False), (0, True), (2, True)]
    assert found.comparisons[0][3:8] == (0.0, 0.0, 0.0, 1.0, 1.0)
    assert found.sentences[0] == (
        "trial 1 is the best of 4: pass_at_2 0.9861 (95% over prompts and seeds: 0.9583 to 1), 12 "
        "prompts, 4 samples of each, 2 seeds"
    )
    assert found.sentences[1:] == [
        "trial 3 cannot be told apart from it",
        "trials 0 and 2 are worse (Holm-corrected p below 0.05)",
    ]
    assert found.warnings[0].startswith("a trial has 2 seeds: ")


def test_a_difference_is_the_paired_bootstraps(tmp_path: Path) -> None:
    opened = made(tmp_path, seeds=[0])
    complete(opened, {"training.risk_beta": 0.0}, {0: FAIR})
    complete(opened, {"training.risk_beta": 2.0}, {0: GOOD})
    found = _best(opened)
    sides = [
        [pass_at_k([t.count("c") for t in given.values()], [4] * 12, [2])] for given in (FAIR, GOOD)
    ]
    expected = paired_difference(*sides, ["aime"] * 6 + ["math"] * 6, resamples=400)
    comparison = found.comparisons[0]
    assert comparison[3:6] == pytest.approx([float(column[0]) for column in expected[:3]])
    assert comparison.p_holm <= float(expected.p_value_K[0])
    assert found.warnings == [
        "a trial has one seed: how much seeds of training differ is in no interval"
    ]


def test_few_prompts_tell_nothing_apart_however_far_they_lie(tmp_path: Path) -> None:
    opened = made(tmp_path)
    for beta, letters in ((0.0, "cccc"), (2.0, "xxxx")):
        given = answers(f"{letters} {letters}", f"{letters} {letters}")
        complete(opened, {"training.risk_beta": beta}, {0: given, 1: given})
    (comparison,) = _best(opened).comparisons
    assert comparison.difference == -1.0
    assert comparison.p_value == 0.125  # each of 4 prompts could have had the other sign
    assert comparison.apart is False


@pytest.mark.parametrize(("seeds", "least"), [(2, 1 / 3), (3, 0.1), (5, 2 / 252)])
def test_few_seeds_alone_tell_nothing_apart(tmp_path: Path, seeds: int, least: float) -> None:
    given = list(range(seeds))
    opened = made(tmp_path, seeds=given, objectives=["training/entropy"])
    for beta, entropy in ((0.0, 1.0), (2.0, 5.0)):
        logged = {seed: {"training/entropy": entropy + seed / 100} for seed in given}
        complete(opened, {"training.risk_beta": beta}, dict.fromkeys(given, FAIR), further=logged)
    (comparison,) = _best(opened).comparisons
    assert comparison.p_value == pytest.approx(least)
    assert comparison.apart is (least < 0.05)


def test_one_seed_of_what_no_prompt_has_tells_nothing_apart(tmp_path: Path) -> None:
    opened = made(tmp_path, seeds=[0], objectives=["training/entropy"])
    for beta, entropy in ((0.0, 1.0), (2.0, 5.0)):
        logged = {0: {"training/entropy": entropy}}
        complete(opened, {"training.risk_beta": beta}, {0: FAIR}, further=logged)
    found = _best(opened)
    assert found.comparisons[0].apart is None
    assert found.comparisons[0].difference == -4.0
    assert found.sentences[1] == "nothing tells trial 0 from it: that needs two seeds of each"


def test_the_least_is_best_where_it_is_minimized(tmp_path: Path) -> None:
    opened = made(tmp_path, objectives=[{"metric": "pass_at_2", "direction": "minimize"}])
    complete(opened, {"training.risk_beta": 0.0}, {0: GOOD, 1: GOOD})
    complete(opened, {"training.risk_beta": 2.0}, {0: POOR, 1: POOR})
    assert _best(opened).trials == [1]


def test_trials_that_miss_a_constraint_are_left_out(tmp_path: Path) -> None:
    opened = made(tmp_path, constraints=[{"metric": "pass_at_1", "at_most": 0.5}])
    complete(opened, {"training.risk_beta": 0.0}, {0: GOOD, 1: GOOD})
    with pytest.raises(UserError, match="none of the 1 complete trials keeps all constraints"):
        _best(opened)
    complete(opened, {"training.risk_beta": 2.0}, {0: FAIR, 1: FAIR})
    found = _best(opened)
    assert found.trials == [1]
    assert found.sentences[-1] == "1 trial misses a constraint: left out"
    assert [t.number for t in opened.study.best_trials] == [1]


def test_a_study_without_a_complete_trial_has_no_best(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the study's 0 trials is complete"):
        _best(made(tmp_path))


def test_neighbours_on_a_front_are_compared_in_each_objective(tmp_path: Path) -> None:
    opened = made(tmp_path, objectives=["aime/pass_at_2", "math/pass_at_2"])
    good, poor = "cccc cccc cccx cccc cccc ", "xxxx xxxc xxxx xxxx xxxx "
    close = "cccc cccc cccc cccc ccxx "
    for beta, given in (
        (0.0, answers(2 * good, 2 * poor)),
        (2.0, answers(2 * poor, 2 * good)),
        (4.0, answers(2 * poor, 2 * poor)),
        (8.0, answers(2 * close, 2 * "xxxx xxcc xxxx xxxx xxxx ")),
    ):
        complete(opened, {"training.risk_beta": beta}, {0: given, 1: given})
    found = _best(opened)
    assert sorted(found.trials) == sorted(t.number for t in opened.study.best_trials)
    assert found.trials == [0, 3, 1]
    assert found.sentences == [
        "of 4 trials trials 0, 3 and 1 are beaten by no other in aime/pass_at_2 and math/pass_at_2",
        "trials 0 and 3 cannot be told apart in aime/pass_at_2 and math/pass_at_2",
        "trials 3 and 1 can be told apart in aime/pass_at_2 and math/pass_at_2",
    ]


def test_a_front_of_one_seed_says_what_it_cannot_compare(tmp_path: Path) -> None:
    sought = ["pass_at_2", {"metric": "training/entropy", "direction": "minimize"}]
    opened = made(tmp_path, seeds=[0], objectives=sought)
    for beta, given, entropy in ((0.0, GOOD, 2.0), (2.0, POOR, 1.0)):
        logged = {0: {"training/entropy": entropy}}
        complete(opened, {"training.risk_beta": beta}, {0: given}, further=logged)
    assert _best(opened).sentences[1:] == [
        "trials 0 and 1 can be told apart in pass_at_2 and need two seeds to be compared in "
        "training/entropy"
    ]


def test_a_front_is_corrected_for_all_that_it_was_chosen_from(tmp_path: Path) -> None:
    opened = made(tmp_path, objectives=["aime/pass_at_2", "math/pass_at_2"])
    good, poor = "cccc cccc cccx cccc cccc", "xxxx xxxc xxxx xxxx xxxx"
    for beta, given in ((0.0, (good, poor)), (2.0, (poor, good)), (4.0, (poor, poor))):
        complete(opened, {"training.risk_beta": beta}, {s: answers(*given) for s in (0, 1)})
    first, second = _best(opened).comparisons
    assert (first.trial, first.other) == (0, 1)
    p, other = sorted((first.p_value, second.p_value))
    raised = sorted((first.p_holm, second.p_holm))  # three pairs of trials, in two objectives
    assert raised == pytest.approx([6 * p, max(6 * p, 5 * other)])


@pytest.mark.parametrize("directions", list(product(["maximize", "minimize"], repeat=2)))
def test_the_front_is_optunas(directions: tuple[str, str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=list(directions))
    rng = np.random.default_rng(0)
    for values in rng.integers(0, 6, (40, 2)):
        study.add_trial(optuna.create_trial(values=values.tolist()))
    objectives = [Objective(metric="auc", direction=d) for d in directions]  # type: ignore[arg-type]
    front = pareto_front(study.trials, objectives)
    assert sorted(front) == sorted(trial.number for trial in study.best_trials)
    firsts = [study.trials[number].values[0] for number in front]
    assert firsts == sorted(firsts, reverse=directions[0] == "maximize")


def _drawn(number: int, chances_P: np.ndarray, rng: np.random.Generator) -> Scored:
    correct_P, n_P = rng.binomial(16, chances_P), np.full(len(chances_P), 16)
    counts = PromptCounts([("b", str(at)) for at in range(len(n_P))], correct_P, n_P)
    value = float(pass_at_k(correct_P, n_P, [4]).mean())
    return Scored(number, {}, {0: {"pass_at_4": value}}, [counts])


def _worse_than_best(config: Config, chances: list[np.ndarray], seed: int) -> list[bool]:
    rng = np.random.default_rng(seed)
    trials = [_drawn(at, chances_P, rng) for at, chances_P in enumerate(chances)]
    best = max(trials, key=lambda trial: trial.metrics_by_seed[0]["pass_at_4"])
    pairs = [(trial, best, "pass_at_4") for trial in trials if trial is not best]
    return [bool(c.apart) for c in compare_trials(pairs, config, math.comb(len(trials), 2))]


def test_equal_trials_are_seldom_told_apart_although_the_best_was_chosen() -> None:
    config = load_config(None, ["evaluation.resamples=300"])
    chances_P = np.random.default_rng(0).beta(0.5, 1.5, 60)
    wrong = sum(any(_worse_than_best(config, [chances_P] * 8, seed)) for seed in range(60))
    assert wrong <= 7  # 5% of 60 are 3; more than 7 come by chance in 1% of such tests


def test_trials_of_large_sweeps_can_still_be_told_apart() -> None:
    config = load_config(None, ["evaluation.resamples=300"])
    chances_P = np.random.default_rng(0).beta(0.5, 1.5, 200)
    better_P = np.clip(chances_P + 0.15, 0, 1)
    assert all(_worse_than_best(config, [better_P] + [chances_P] * 59, 1))
