"""What RSGRPOTrainer refuses, each in one sentence, before a model is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, IterableDataset
from trl import GRPOConfig

from rsgrpo.config import Config
from rsgrpo.policy.tiny import build_model, build_tokenizer
from rsgrpo.training import RSGRPOConfig, RSGRPOTrainer
from rsgrpo.training.trainer import first_pass_metrics, refuse

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
        ({"dynamic_sampling": "drop", "loss_type": "grpo"}, {}, "loss_type is 'grpo'"),
        ({"dynamic_sampling": "refill", "beta": 0.04}, {}, "beta is 0.04"),
        ({"save_steps": 3, "steps_per_generation": 2}, {}, "save_steps is 3"),
        ({"risk_beta": float("nan")}, {}, "risk_beta is nan"),
        ({"risk_beta": {"schedule": "cosin"}}, {}, "constant, linear, cosine, exponential, phases"),
        ({"risk_beta": {"schedule": "cosine", "start": 8}}, {}, "missing .* argument: 'end'"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_be_honoured_is_refused(
    tmp_path: Path, own: dict[str, Any], more: dict[str, Any], sentence: str
) -> None:
    data = Dataset.from_dict({"prompt": ["a"] * 8})
    args = RSGRPOConfig(str(tmp_path), **{**CPU, **own})
    with pytest.raises(ValueError, match=sentence) as fault:
        RSGRPOTrainer("no-model-is-loaded", print, args, data, **more)
    assert "\n" not in str(fault.value)


def test_a_local_batch_that_splits_groups_is_refused_with_dynamic_sampling(tmp_path: Path) -> None:
    args = RSGRPOConfig(str(tmp_path), **CPU, dynamic_sampling="drop")
    args.num_generations = 16  # as on one of two processes, which share the group
    with pytest.raises(ValueError, match=r"generates 8 completions .* splits groups of 16"):
        refuse(args, None, {})


def test_plain_trl_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="args is a GRPOConfig: RSGRPOTrainer needs RSGRPOConfig"):
        RSGRPOTrainer("m", print, GRPOConfig(str(tmp_path), **CPU))


@pytest.mark.parametrize("mode", ["off", "drop", "refill"])
def test_other_trl_arguments_go_on_working(tmp_path: Path, mode: str) -> None:
    def reward(completion_ids: list[list[int]], log_extra: Any, **_: Any) -> list[float]:
        log_extra("first", [ids[0] for ids in completion_ids])
        return [float(ids[0] % 2) for ids in completion_ids]

    args = RSGRPOConfig(
        str(tmp_path),
        **CPU,
        gradient_checkpointing=False,
        dynamic_sampling=mode,
        num_generations=4,
        steps_per_generation=4,
        gradient_accumulation_steps=2,
        num_iterations=2,
        mask_truncated_completions=True,
        log_completions=True,
        num_completions_to_print=0,
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=8,
        max_completion_length=6,
        max_steps=4,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )
    prompts = Dataset.from_dict({"prompt": [f"{a} 2 3 > 9 :" for a in range(1, 13)]})
    trainer = RSGRPOTrainer(
        build_model(Config().policy), reward, args, prompts, prompts.select(range(4)),
        processing_class=build_tokenizer(),
    )  # fmt: skip
    trainer.train()
    tables = sorted((tmp_path / "completions").glob("*.parquet"))
    assert trainer.state.global_step == 4 and tables
    for file in tables:
        table = pq.read_table(file).to_pydict()
        for row, reward_ in enumerate(table["reward"]):
            assert table["first"][row] % 2 == reward_
    assert any("eval_reward" in entry for entry in trainer.state.log_history)


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
