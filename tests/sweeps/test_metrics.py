"""Names of metrics: taken apart, and refused before anything runs where no trial will have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsgrpo.config import Config, load_config
from rsgrpo.errors import UserError
from sweeps.config import SweepConfig
from sweeps.metrics import check_metrics, known_metrics, parse_metric
from sweeps.space import load_sweep
from tests.sweeps.made_studies import sweep_file


def _sweep(*objectives: str, **changes: Any) -> SweepConfig:
    space = {"training.risk_beta": {"values": [0.0, 1.0]}}
    return SweepConfig.model_validate({"space": space, "objectives": list(objectives), **changes})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_sweep(sweep_file(tmp_path)).config


def test_a_name_is_taken_apart() -> None:
    assert parse_metric("pass_at_8")[1:] == ("pass", None, 8)
    assert parse_metric("mean/maj_at_8")[1:] == ("maj", None, 8)
    assert parse_metric("aime24/avg_at_n")[1:] == ("avg", "aime24", None)
    assert parse_metric("aime24/auc")[1:] == ("auc", "aime24", None)
    assert parse_metric("training/rewards/verified/mean").kind == "training"


@pytest.mark.parametrize("name", ["", "pass", "pass_at_0", "pass_at_n", "avg_at_4", "training/"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is none: write pass_at_K"):
        parse_metric(name)


def test_a_config_will_have_what_its_scores_hold(config: Config) -> None:
    assert known_metrics(config)[:8] == [
        "pass_at_1",
        "pass_at_2",
        "pass_at_4",
        "maj_at_1",
        "maj_at_2",
        "maj_at_4",
        "avg_at_n",
        "auc",
    ]
    assert "aime/pass_at_4" in known_metrics(config)
    assert "T3/pass_at_64" in known_metrics(load_config(None))


def test_fewer_samples_of_a_benchmark_leave_a_mean_over_the_others(config: Config) -> None:
    data = config.data.model_copy(
        update={"benchmarks": {name: Path(f"{name}.jsonl") for name in ("aime", "math", "gsm")}}
    )
    sampling = config.sampling.model_copy(update={"n_of": {"gsm": 2}})
    fewer = config.model_copy(update={"data": data, "sampling": sampling})
    names = known_metrics(fewer)
    assert "pass_at_4" not in names
    assert "mean_of_2/pass_at_4" in names
    assert "gsm/pass_at_2" in names
    assert "gsm/pass_at_4" not in names


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("pass_at_3", "sweep.objectives: pass_at_3 needs k = 3 among evaluation.ks"),
        ("pas_at_2", "metric 'pas_at_2' is none"),
        ("aine/pass_at_2", "did you mean aime/pass_at_2"),
    ],
)
def test_a_metric_that_no_trial_will_have_is_refused(
    config: Config, name: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        check_metrics(_sweep(name), config)


def test_more_samples_than_there_are_is_refused(config: Config) -> None:
    ks = config.evaluation.model_copy(update={"ks": (1, 64)})
    with pytest.raises(UserError, match="needs 64 samples of each prompt and there are 4"):
        check_metrics(_sweep("pass_at_64"), config.model_copy(update={"evaluation": ks}))


def test_constraints_are_checked_too(config: Config) -> None:
    bound = {"metric": "pass_at_8", "at_least": "base"}
    with pytest.raises(UserError, match=r"sweep\.constraints: pass_at_8 needs k = 8"):
        check_metrics(_sweep("auc", constraints=[bound]), config)


def test_what_training_logs_is_not_known_before(config: Config) -> None:
    check_metrics(_sweep("auc", "training/entropy"), config)
