"""What a trial gave: exact numbers from hand-written answers, and those of a real tiny run."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.stages import find, run
from rsgrpo.tracking.spool import Spool
from sweeps.config import SweepConfig
from sweeps.units import Unit
from sweeps.values import (
    auc_weights,
    base_metrics,
    constraint_values,
    mean_metric,
    objective_values,
    score_metrics,
    training_metrics,
    unit_metrics,
    values_by_seed,
)
from tests.sweeps.made_studies import answers, made, write_score

BY_SEED = {0: {"pass_at_1": 0.25, "auc": 0.5}, 1: {"pass_at_1": 0.75, "auc": 0.7}}


def _sweep(**changes: object) -> SweepConfig:
    tree = {"space": {"training.risk_beta": {"values": [0.0]}}, "objectives": ["pass_at_1", "auc"]}
    return SweepConfig.model_validate({**tree, **changes})


def test_the_area_of_even_steps_counts_the_ends_half() -> None:
    assert auc_weights([1, 2, 4]).tolist() == [0.25, 0.5, 0.25]
    assert auc_weights([1, 8]).tolist() == [0.5, 0.5]
    assert auc_weights([1, 2, 8]) == pytest.approx([1 / 6, 1 / 2, 1 / 3])


@given(
    st.lists(st.integers(1, 1 << 20), min_size=2, max_size=12, unique=True).map(sorted),
    st.data(),
)
def test_the_area_is_that_of_the_trapezoids(ks: list[int], data: st.DataObject) -> None:
    curve = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(ks), max_size=len(ks))))
    at = np.log2(ks)
    area = float(np.trapezoid(curve, at) / (at[-1] - at[0]))
    assert float(auc_weights(ks) @ curve) == pytest.approx(area, abs=1e-12)
    assert float(auc_weights(ks).sum()) == pytest.approx(1)
    assert curve.min() - 1e-12 <= area <= curve.max() + 1e-12


def test_a_score_has_each_benchmark_and_their_uniform_mean(tmp_path: Path) -> None:
    opened = made(tmp_path)
    folder = write_score(tmp_path / "score" / "s", opened, answers("cxxx ----", "ccxx"))
    found = score_metrics(folder, opened.plan.config)

    def passk(letters: str, k: int) -> float:
        drawn = list(combinations(letters, k))
        return sum("c" in some for some in drawn) / len(drawn)

    for k in (1, 2, 4):
        aime, math_ = passk("cxxx", k) / 2, passk("ccxx", k)
        assert found[f"aime/pass_at_{k}"] == pytest.approx(aime)
        assert found[f"math/pass_at_{k}"] == pytest.approx(math_)
        assert found[f"pass_at_{k}"] == pytest.approx((aime + math_) / 2)
        assert found[f"mean/pass_at_{k}"] == found[f"pass_at_{k}"]
    curve = [found[f"pass_at_{k}"] for k in (1, 2, 4)]
    assert found["auc"] == pytest.approx((curve[0] / 2 + curve[1] + curve[2] / 2) / 2)
    assert found["avg_at_n"] == found["pass_at_1"] == pytest.approx((1 / 8 + 1 / 2) / 2)
    assert found["math/maj_at_4"] == pytest.approx(0.5)  # c and x have two votes each
    assert "aime/auc" in found


def test_training_metrics_are_the_last_steps_first_records(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool.jsonl", "run") as spool:
        spool.metrics(1, {"entropy": 2.0, "loss": 0.1})
        spool.metrics(2, {"entropy": 1.0, "loss": math.nan, "seldom": 7.0})
        spool.metrics(2, {"entropy": 9.0})
        spool.metrics(1, {"entropy": 8.0})
    found = training_metrics(tmp_path / "spool.jsonl")
    assert found == {"training/entropy": 1.0, "training/seldom": 7.0}


def test_a_value_is_the_mean_over_seeds() -> None:
    assert objective_values(BY_SEED, _sweep()) == [0.5, pytest.approx(0.6)]
    assert values_by_seed(BY_SEED, _sweep()) == {"0": [0.25, 0.5], "1": [0.75, 0.7]}


def test_a_seed_without_the_metric_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match="seed 0 has no finite value of pass_at_2"):
        mean_metric(BY_SEED, "pass_at_2")
    with pytest.raises(UserError, match="did you mean auc"):
        mean_metric(BY_SEED, "acu")
    with pytest.raises(UserError, match="no seed has a value"):
        mean_metric({}, "auc")


def test_a_constraint_is_at_most_0_where_it_is_kept() -> None:
    bounds = [
        {"metric": "pass_at_1", "at_least": "base"},
        {"metric": "pass_at_1", "at_most": 0.4},
        {"metric": "auc", "at_most": "base"},
    ]
    found = constraint_values(BY_SEED, {"pass_at_1": 0.45, "auc": 0.5}, _sweep(constraints=bounds))
    assert found == {
        "pass_at_1 at least base": pytest.approx(-0.05),
        "pass_at_1 at most 0.4": pytest.approx(0.1),
        "auc at most base": pytest.approx(0.1),
    }


def test_a_base_without_the_metric_is_said() -> None:
    bounds = [{"metric": "pass_at_1", "at_least": "base"}]
    with pytest.raises(UserError, match="the base policy has no value of pass_at_1"):
        constraint_values(BY_SEED, {"pass_at_2": 0.1}, _sweep(constraints=bounds))


def test_a_real_units_metrics_are_those_of_its_stages(tiny_config: Config, tiny_root: Path) -> None:
    unit = Unit("study", 0, tiny_config.training.seed, tiny_config)
    with pytest.raises(UserError, match="is not finished as seen from here"):
        unit_metrics(tiny_root / "elsewhere", unit)
    run(tiny_root, unit.run.score)
    metrics = unit_metrics(tiny_root, unit)
    folder = find(tiny_root, unit.run.score)
    assert folder is not None
    rows = json.loads((folder / "passk.json").read_text())
    means = {row["k"]: row["pass_at_k"] for row in rows if row["benchmark"] == "mean"}
    assert {k: metrics[f"pass_at_{k}"] for k in means} == pytest.approx(means)
    assert metrics["training/num_tokens"] > 0
    assert metrics["training/learning_rate"] == pytest.approx(1.5e-4)
    assert 0 <= metrics["auc"] <= 1


def test_the_base_policys_metrics_need_its_evaluation(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not finished as seen from here"):
        base_metrics(tmp_path, tiny_config)
