"""What RSGRPOTrainer refuses, each in one sentence, before a model is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset

from rsgrpo.training import RSGRPOConfig, RSGRPOTrainer
from rsgrpo.training.trainer import first_pass_metrics

CPU = {"bf16": False, "use_cpu": True, "report_to": [], "per_device_train_batch_size": 8}


@pytest.mark.parametrize(
    ("own", "more", "sentence"),
    [
        ({}, {"tools": [print]}, "does not support tools"),
        ({}, {"rollout_func": print}, "does not support rollout_func"),
        ({}, {"environment_factory": print}, "does not support environment_factory"),
        ({"advantage": "rs_grp"}, {}, "advantage is 'rs_grp': known are rs_grpo, grpo, dr_grpo"),
        ({"dynamic_sampling": "on"}, {}, "dynamic_sampling is 'on'"),
        ({"scale_rewards": "none"}, {}, "scale_rewards is 'none'"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, {}, "set it to 'sum_then_"),
        (
            {"dynamic_sampling": "drop", "num_generations": 16, "generation_batch_size": 16,
             "per_device_train_batch_size": 4, "steps_per_generation": None},
            {},
            None,
        ),
        ({"save_steps": 3, "steps_per_generation": 2}, {}, "save_steps is 3"),
        ({"risk_beta": float("nan")}, {}, "risk_beta is nan"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_be_honoured_is_refused(
    tmp_path: Path, own: dict[str, Any], more: dict[str, Any], sentence: str | None
) -> None:
    data = Dataset.from_dict({"prompt": ["a"] * 8})
    args = RSGRPOConfig(str(tmp_path), **{**CPU, **own})
    if sentence is None:
        from rsgrpo.training.trainer import refuse

        return refuse(args, data, more)
    with pytest.raises(ValueError, match=sentence) as fault:
        RSGRPOTrainer("no-model-is-loaded", print, args, data, **more)
    assert "\n" not in str(fault.value)
    return None


def test_images_and_iterable_datasets_are_refused(tmp_path: Path) -> None:
    args = RSGRPOConfig(str(tmp_path), **CPU)
    with pytest.raises(ValueError, match="does not support images"):
        RSGRPOTrainer("m", print, args, Dataset.from_dict({"prompt": ["a"], "image": ["b"]}))
    stream = IterableDataset.from_generator(lambda: iter([{"prompt": "a"}]))
    with pytest.raises(ValueError, match="IterableDataset"):
        RSGRPOTrainer("m", print, args, stream)


def test_defaults_are_clip_higher_token_level_loss_and_no_kl(tmp_path: Path) -> None:
    args = RSGRPOConfig(str(tmp_path), **CPU)
    assert (args.epsilon, args.epsilon_high, args.loss_type, args.beta) == (0.2, 0.28, "dapo", 0.0)
    assert (args.advantage, args.risk_beta, args.dynamic_sampling) == ("rs_grpo", 2.0, "off")


def test_first_pass_metrics_are_exact() -> None:
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
    metrics = first_pass_metrics(rewards)
    assert metrics["reward"] == pytest.approx(7 / 16)
    assert metrics["frac_all_fail"] == metrics["frac_all_pass"] == 0.25
    assert metrics["pass_at_1"] == pytest.approx(7 / 16)
    assert metrics["pass_at_2"] == pytest.approx((1 / 2 + 1 + 0 + 5 / 6) / 4)
    assert metrics["pass_at_4"] == pytest.approx(3 / 4)
