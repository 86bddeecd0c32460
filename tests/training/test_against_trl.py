"""With `grpo` and no dynamic sampling the trainer is TRL's, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rsgrpo.config import Config
from rsgrpo.policy.tiny import build_model, build_tokenizer
from rsgrpo.training import RSGRPOConfig, RSGRPOTrainer

PROMPTS = [
    f"{a} {b} {c} > {a + b + c} :" for a, b, c in ((1, 2, 3), (4, 5, 6), (7, 8, 9), (2, 2, 5))
]


def noisy_reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that an untrained policy earns often: the first token is even."""
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


def trained_weights(trainer_class: Any, config_class: Any, out: Path, **own: Any) -> dict[str, Any]:
    config = config_class(
        output_dir=str(out),
        per_device_train_batch_size=16,
        steps_per_generation=2,
        num_generations=8,
        max_completion_length=10,
        max_steps=5,
        learning_rate=1e-2,
        epsilon_high=0.28,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        seed=7,
        **own,
    )
    trainer = trainer_class(
        build_model(Config().policy),
        noisy_reward,
        config,
        Dataset.from_dict({"prompt": PROMPTS * 4}),
        processing_class=build_tokenizer(),
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    return dict(after)


def test_grpo_without_dynamic_sampling_has_the_weights_of_trl_after_5_steps(tmp_path: Path) -> None:
    theirs = trained_weights(GRPOTrainer, GRPOConfig, tmp_path / "trl")
    ours = trained_weights(
        RSGRPOTrainer, RSGRPOConfig, tmp_path / "ours", advantage="grpo", dynamic_sampling="off"
    )
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_the_risk_sensitive_advantage_leads_elsewhere(tmp_path: Path) -> None:
    neutral = trained_weights(RSGRPOTrainer, RSGRPOConfig, tmp_path / "a", risk_beta=0.0)
    seeking = trained_weights(RSGRPOTrainer, RSGRPOConfig, tmp_path / "b", risk_beta=8.0)
    assert any(not torch.equal(neutral[name], seeking[name]) for name in neutral)
