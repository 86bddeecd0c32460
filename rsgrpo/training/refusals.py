"""Which of TRL's arguments RS-GRPO cannot honour, each refused in one sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from datasets import IterableDataset

from rsgrpo.advantages import ESTIMATORS

if TYPE_CHECKING:
    from rsgrpo.training.trainer import RSGRPOConfig


def refuse(args: RSGRPOConfig, dataset: Any, kwargs: dict[str, Any]) -> None:
    """Raise a sentence for each argument that RS-GRPO cannot honour."""
    for name in ("tools", "rollout_func", "environment_factory"):
        if kwargs.get(name):
            raise ValueError(f"RSGRPOTrainer does not support {name}: leave it out")
    if isinstance(dataset, IterableDataset):
        raise ValueError("RSGRPOTrainer needs a dataset with a length: an IterableDataset has none")
    columns = set(getattr(dataset, "column_names", None) or [])
    if columns & {"image", "images"}:
        raise ValueError(
            "RSGRPOTrainer does not support images: remove the column from the dataset"
        )
    if args.multi_objective_aggregation != "sum_then_normalize":
        raise ValueError(
            f"multi_objective_aggregation is {args.multi_objective_aggregation!r}: the estimators "
            "work on the summed reward, set it to 'sum_then_normalize'"
        )
    if args.scale_rewards != "group":
        raise ValueError(
            f"scale_rewards is {args.scale_rewards!r}: the estimator decides the scale, choose "
            "advantage='grpo' or 'dr_grpo' instead"
        )
    _refuse_settings(args)


def _refuse_settings(args: RSGRPOConfig) -> None:
    if args.advantage not in ESTIMATORS:
        raise ValueError(f"advantage is {args.advantage!r}: known are {', '.join(ESTIMATORS)}")
    if args.dynamic_sampling not in ("off", "drop", "refill"):
        raise ValueError(
            f"dynamic_sampling is {args.dynamic_sampling!r}: known are off, drop, refill"
        )
    if args.dynamic_sampling != "off":
        _refuse_losses_that_count_silent_rows(args)
    rows = args.per_device_train_batch_size * args.steps_per_generation
    if args.dynamic_sampling != "off" and rows % args.num_generations:
        raise ValueError(
            f"each process generates {rows} completions (per_device_train_batch_size * "
            f"steps_per_generation), which splits groups of {args.num_generations}: dynamic "
            f"sampling needs a multiple of {args.num_generations}"
        )
    window = args.steps_per_generation * args.num_iterations
    saved = args.save_steps * args.gradient_accumulation_steps
    exact = window // math.gcd(window, args.gradient_accumulation_steps)
    if args.save_strategy == "steps" and args.save_steps >= 1 and saved % window:
        raise ValueError(
            f"save_steps is {args.save_steps}: save_steps * gradient_accumulation_steps must be a "
            f"multiple of steps_per_generation * num_iterations = {window}, or a resumed run would "
            "differ from an undisturbed one: set save_steps to "
            f"{math.ceil(args.save_steps / exact) * exact}"
        )


def _refuse_losses_that_count_silent_rows(args: RSGRPOConfig) -> None:
    if args.loss_type not in ("cispo", "dapo", "vespo"):
        raise ValueError(
            f"loss_type is {args.loss_type!r}: with dynamic sampling the loss must be averaged "
            "over the tokens of live groups, as 'dapo' is"
        )
    if args.beta:
        raise ValueError(
            f"beta is {args.beta}: with dynamic sampling a KL term would count tokens of silent "
            "groups, set it to 0 or dynamic_sampling to 'off'"
        )
