"""What is seen of a running training: progress, rungs, reasons to stop; as its spool grows."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from rsgrpo.config import Config, load_config
from rsgrpo.tracking.spool import Spool
from sweeps.config import SweepConfig
from sweeps.watch import UnitWatch, _Clock, pruning_k

CALM = {"loss": 0.1, "grad_norm": 0.5, "entropy": 1.0, "reward": 0.2, "frac_reward_zero_std": 0.5}


@pytest.fixture
def config() -> Config:
    return load_config(None, ["training.steps=10", "training.num_generations=4"])


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool.jsonl", "run")
    spool.start("run", "study")
    return spool


def _sweep(**changes: Any) -> SweepConfig:
    tree = {
        "space": {"training.risk_beta": {"values": [0.0]}},
        "objectives": ["pass_at_2"],
        "pruner": {"name": "median", "every": 2},
    }
    return SweepConfig.model_validate({**tree, **changes})


def _stopped(config: Config, spool: Spool, **stops: Any) -> str | None:
    return UnitWatch(spool.path, _sweep(stops=stops), config).look().stop


def test_a_run_that_has_not_begun_is_at_step_0(config: Config, tmp_path: Path) -> None:
    look = UnitWatch(tmp_path / "none" / "spool.jsonl", _sweep(), config).look()
    assert look == (0, 10, 0, 0.0, [], None)


def test_progress_and_tokens_grow_with_the_spool(config: Config, spool: Spool) -> None:
    watch = UnitWatch(spool.path, _sweep(), config)
    assert watch.look().step == 0
    spool.metrics(1, {**CALM, "num_tokens": 100})
    assert watch.look()[:3] == (1, 10, 100)
    spool.metrics(2, {**CALM, "num_tokens": 250})
    assert watch.look()[:3] == (2, 10, 250)
    assert watch.look()[:3] == (2, 10, 250)


def test_a_line_is_taken_when_it_is_whole(config: Config, spool: Spool) -> None:
    watch = UnitWatch(spool.path, _sweep(), config)
    line = json.dumps({"kind": "metrics", "run": "r", "step": 1, "time": 0, "values": CALM})
    with spool.path.open("a") as file:
        file.write(line[:30])
    assert watch.look().step == 0
    with spool.path.open("a") as file:
        file.write(line[30:] + "\n")
    assert watch.look().step == 1


def test_a_torn_line_is_passed_over(config: Config, spool: Spool) -> None:
    with spool.path.open("a") as file:
        file.write('{"kind": "metrics", "step": 1, "val\n')
    spool.metrics(1, CALM)
    assert UnitWatch(spool.path, _sweep(), config).look().step == 1


def _brute_pass_at_k(correct: int, n: int, k: int) -> float:
    drawn = list(combinations([True] * correct + [False] * (n - correct), k))
    return sum(map(any, drawn)) / len(drawn)


def test_rungs_are_means_over_steps_of_unbiased_pass_at_k(config: Config, spool: Spool) -> None:
    drawn = {1: [0, 1], 2: [4, 2], 3: [1, 1], 4: [0, 3], 5: [4, 4]}
    for step, correct in drawn.items():
        spool.draws(step, 0, 4, ["a", "b"], correct)
        spool.draws(step, 1, 4, ["c"], [4])  # drawn in place of a silent group: selected
    look = UnitWatch(spool.path, _sweep(), config).look()
    means = {s: sum(_brute_pass_at_k(c, 4, 2) for c in drawn[s]) / 2 for s in drawn}
    assert [rung.step for rung in look.rungs] == [2, 4]
    assert look.rungs[0].pass_at_k == pytest.approx((means[1] + means[2]) / 2)
    assert look.rungs[1].pass_at_k == pytest.approx((means[3] + means[4]) / 2)


def test_rungs_are_the_same_however_often_one_looks(config: Config, spool: Spool) -> None:
    watch = UnitWatch(spool.path, _sweep(), config)
    for step in range(1, 7):
        spool.draws(step, 0, 4, ["a", "b"], [step % 5, 1])
        watch.look()
    assert watch.look().rungs == UnitWatch(spool.path, _sweep(), config).look().rungs


def test_of_steps_that_a_resumed_run_repeats_the_first_counts(config: Config, spool: Spool) -> None:
    for step, correct in ((1, 4), (2, 4), (3, 0)):
        spool.draws(step, 0, 4, ["a"], [correct])
        spool.metrics(step, {**CALM, "num_tokens": 10 * step})
    spool.start("run", "study")
    for step in (2, 3):
        spool.draws(step, 0, 4, ["a"], [0])
        spool.metrics(step, {**CALM, "loss": math.nan, "num_tokens": 10 * step})
    spool.draws(4, 0, 4, ["a"], [0])
    look = UnitWatch(spool.path, _sweep(), config).look()
    assert look.step == 3
    assert look.tokens == 30
    assert look.stop is None
    assert look.rungs == [(2, 1.0), (4, 0.0)]


def test_k_of_the_rungs_is_one_that_every_trial_has(config: Config) -> None:
    def sought(*objectives: str, **changes: Any) -> SweepConfig:
        return _sweep(objectives=list(objectives), **changes)

    assert pruning_k(sought("pass_at_2"), config) == 2
    assert pruning_k(sought("pass_at_64"), config) == 4
    assert pruning_k(sought("auc"), config) == 4
    assert pruning_k(sought("training/entropy"), config) == 1
    assert pruning_k(_sweep(pruner={"name": "asha", "k": 3}), config) == 3
    groups = {"training.num_generations": {"values": [2, 16]}}
    assert pruning_k(_sweep(space=groups, objectives=["pass_at_64"]), config) == 2


@pytest.mark.parametrize("name", ["loss", "grad_norm", "mean_abs_advantage", "entropy", "reward"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_stops(config: Config, spool: Spool, name: str, value: float) -> None:
    spool.metrics(1, CALM)
    spool.metrics(2, {**CALM, name: value})
    assert _stopped(config, spool) == f"{name} is {value} at step 2"
    assert _stopped(config, spool, non_finite=False) is None


def test_other_metrics_may_be_infinite(config: Config, spool: Spool) -> None:
    spool.metrics(1, {**CALM, "tokens_per_second": math.inf, "clip_ratio/high_max": math.nan})
    assert _stopped(config, spool) is None


def test_a_reason_once_given_stays(config: Config, spool: Spool) -> None:
    watch = UnitWatch(spool.path, _sweep(), config)
    spool.metrics(1, {**CALM, "loss": math.nan})
    assert watch.look().stop == "loss is nan at step 1"
    spool.metrics(2, CALM)
    assert watch.look().stop == "loss is nan at step 1"


def test_entropy_below_the_floor_stops(config: Config, spool: Spool) -> None:
    spool.metrics(1, {**CALM, "entropy": 0.05})
    assert _stopped(config, spool, entropy_below=0.05) is None
    spool.metrics(2, {**CALM, "entropy": 0.04})
    assert (
        _stopped(config, spool, entropy_below=0.05)
        == "entropy 0.04 at step 2 is below the floor of 0.05"
    )


def test_flat_rewards_stop_when_they_are_flat_in_a_row(config: Config, spool: Spool) -> None:
    for step, share in enumerate((1.0, 1.0, 0.9, 1.0, 1.0), start=1):
        spool.metrics(step, {**CALM, "frac_reward_zero_std": share})
    assert _stopped(config, spool, flat_reward_steps=3) is None
    spool.metrics(6, {**CALM, "frac_reward_zero_std": 1.0})
    reason = _stopped(config, spool, flat_reward_steps=3)
    assert reason == (
        "every group had one reward in 3 steps in a row, the last of them step 6: nothing is "
        "learned"
    )


def test_tokens_above_the_budget_stop_a_run_that_has_steps_left(
    config: Config, spool: Spool
) -> None:
    spool.metrics(4, {**CALM, "num_tokens": 1001})
    assert _stopped(config, spool, tokens=1001) is None
    reason = "training saw 1,001 tokens, above its 1,000, at step 4 of 10"
    assert _stopped(config, spool, tokens=1000) == reason
    spool.metrics(10, {**CALM, "num_tokens": 5000})
    assert _stopped(config, spool, tokens=1000) is None


def test_seconds_are_counted_over_all_attempts_and_not_between_them(
    config: Config, tmp_path: Path
) -> None:
    path = tmp_path / "spool.jsonl"
    times = [("start", 100), ("metrics", 130), ("start", 9000), ("metrics", 9040), ("end", 9045)]
    with path.open("w") as file:
        for at, (kind, second) in enumerate(times):
            record = {"kind": kind, "step": at, "time": second * 1000, "values": CALM}
            file.write(json.dumps(record) + "\n")
    sweep = _sweep(stops={"seconds": 75})
    assert UnitWatch(path, sweep, config).look().seconds == pytest.approx(75)
    assert UnitWatch(path, sweep, config).look().stop is None
    reason = _stopped_after(path, config, 74)
    assert reason == "training took 75 s, above its 74 s, at step 3 of 10"


def _stopped_after(path: Path, config: Config, seconds: float) -> str | None:
    return UnitWatch(path, _sweep(stops={"seconds": seconds}), config).look().stop


def test_a_run_that_hangs_grows_older_and_one_killed_before_does_not() -> None:
    now = [0.0]
    heard, silent = _Clock(lambda: now[0]), _Clock(lambda: now[0])
    for clock, live in ((heard, True), (silent, False)):
        clock.take({"kind": "start", "time": 5000}, live)
        clock.take({"kind": "metrics", "time": 8000}, live)
    now[0] = 100.0
    assert heard.seconds() == pytest.approx(103)
    assert silent.seconds() == pytest.approx(3)
