"""The training stage: one policy, one reward, RS-GRPO.

What RS-GRPO changes in GRPO: the advantage, one line. What DAPO adds here: silent groups are
dropped or redrawn, the upper clip is higher, the loss is a mean over tokens. What is left out: the
KL term and with it the reference model, a value network, and reward shaping of any kind.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsgrpo.config import Config, PromptConfig, flatten
from rsgrpo.config_training import DEFAULT_REWARD, TrainingConfig
from rsgrpo.data.jsonl import read_problems
from rsgrpo.errors import UserError
from rsgrpo.policy.load import end_tokens, load_policy, save_policy
from rsgrpo.policy.prompts import refuse_missing_template, render_prompts, training_prompt
from rsgrpo.records import Problem
from rsgrpo.stages import WORK, rank, world_size
from rsgrpo.tracking.journal import record_dataset, record_environment, training_run
from rsgrpo.tracking.spool import SPOOL_NAME, Spool
from rsgrpo.training.checkpoints import last_checkpoint, step_of
from rsgrpo.training.named_rewards import named_reward

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rsgrpo.training.stopping import Stopping
    from rsgrpo.training.trainer import RSGRPOConfig, RSGRPOTrainer

# What `training.trl` may set although a value is given here.
FREE = {
    "beta",
    "bf16",
    "dataloader_pin_memory",
    "gradient_checkpointing",
    "loss_type",
    "lr_scheduler_type",
    "use_cpu",
}


# What `training.trl` may never set: code of a checkpoint, uploads, hosts, files, and what would
# make a resumed run another one.
UNSAFE = {
    "accelerator_config",
    "chat_template_path",
    "deepspeed",
    "fsdp_config",
    "ignore_data_skip",
    "log_completions_hub_repo",
    "model_init_kwargs",
    "push_to_hub",
    "resume_from_checkpoint",
    "save_only_model",
    "trust_remote_code",
}
UNSAFE_PREFIXES = ("hub_", "push_to_hub_", "vllm_server_")


def train(
    config: Config,
    *,
    data: Path,
    policy: str | Path,
    identity: dict[str, Any],
    out: Path,
    reward_version: str | None = None,
) -> None:
    """Train a policy and write its directory, with the run's spool beside it.

    Killed at any moment, the next call goes on from the last checkpoint; SIGTERM saves one first.
    The process opens no network connection and no tracking database. Of several ranks that a
    launcher started, the first records and writes.

    Args:
        config: The study; `training`, `grading` and `prompt` are read.
        data: The output folder of the prepare stage, with `train.jsonl`.
        policy: The base policy: a directory or a hub id.
        identity: `policy`, `method`, `risk_beta` and `seed` of the run, kept with its records.
        out: Where the trained policy goes.
        reward_version: The version of a registered reward, as the study was planned with.

    Raises:
        UserError: The training set is missing, the trainer refuses a setting, the reward is not
            installed, or another number of processes was started than `training.processes`.
        SystemExit: SIGTERM came (status 143).
    """
    # TRL imports MLflow wherever it is installed, and reports to a hub unless told not to.
    os.environ["DISABLE_MLFLOW_INTEGRATION"] = "TRUE"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from rsgrpo.grading.pool import GradingPool
    from rsgrpo.training.rewards import make_reward
    from rsgrpo.training.stopping import Stopping

    settings, grading = config.training, config.grading
    _refuse_other_count(settings.processes)
    # Weights stay in float32, as in TRL: updates of 1e-6 vanish in bfloat16.
    model, tokenizer = load_policy(policy, dtype="float32")
    refuse_missing_template(tokenizer, config.prompt.template)
    dataset = training_set(config, data, tokenizer)
    if rank() == 0:
        _write_prompt(out / "environment", config.prompt, dataset, tokenizer)
    stopping = Stopping(settings.minibatches, settings.processes)
    with (
        stopping.listening(),
        _recorded(config, identity, data, out) as spool,
        GradingPool.from_config(grading) as pool,
    ):
        if settings.reward == DEFAULT_REWARD:
            reward = make_reward(grading, end_tokens(model, tokenizer), pool)
        else:
            reward = named_reward(settings.reward, reward_version)
        trainer = _build(
            model=model,
            reward_funcs=reward,
            args=trainer_arguments(settings, out / WORK),
            train_dataset=dataset,
            processing_class=tokenizer,
            **_observers(spool, settings, stopping, problem_ids(data)),
        )
        trained = _go_on(trainer, stopping, last_checkpoint(out / WORK, settings.processes))
        if rank() == 0:
            save_policy(trained, tokenizer, out)
        _meet()


def _meet() -> None:
    """Let no rank end before all have finished."""
    import torch.distributed as ranks

    if ranks.is_initialized():
        ranks.barrier()


def _go_on(trainer: RSGRPOTrainer, stopping: Stopping, checkpoint: Path | None) -> PreTrainedModel:
    """Train to the end, from a checkpoint where there is one; return the trained model."""
    if checkpoint and step_of(checkpoint) >= trainer.args.max_steps:
        model, _ = load_policy(checkpoint, dtype="float32")
        return model  # the trainer would add a step to it
    model = trainer.model
    stopping.train(trainer, checkpoint)
    return model


def training_set(config: Config, data: Path, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Return the prompts with what the reward needs: columns prompt, problem, answer.

    A column `prompt_index` numbers the rows for the record of what was drawn.

    Raises:
        UserError: There is no training set, or fewer prompts than one step draws.
    """
    from datasets import Dataset

    problems = _training_problems(data)
    wanted = config.training.prompts_per_step
    if len(problems) < wanted:
        raise UserError(
            f"training.prompts_per_step is {wanted} but the training set holds {len(problems)} "
            "problems: lower the one or add to the other"
        )
    texts = [problem.problem for problem in problems]
    return Dataset.from_dict(
        {
            "prompt": [training_prompt(text, config.prompt) for text in texts],
            "problem": texts,
            "answer": [problem.answer for problem in problems],
            "prompt_index": list(range(len(problems))),
        }
    )


def problem_ids(data: Path) -> list[str]:
    """Return the id of each row of the training set."""
    return [problem.id for problem in _training_problems(data)]


def _training_problems(data: Path) -> list[Problem]:
    file = data / "train.jsonl"
    if not file.exists():
        raise UserError("the config names no training set: set data.train to a JSONL file")
    return read_problems(file)


def trainer_arguments(settings: TrainingConfig, checkpoints: Path) -> RSGRPOConfig:
    """Translate our settings into TRL's; one of our steps is one generation, `minibatches` updates.

    Raises:
        UserError: TRL or RS-GRPO refuses a setting.
    """
    from rsgrpo.training.trainer import RSGRPOConfig

    arguments = translated(settings, checkpoints)
    _refuse_save_steps(settings)
    _refuse_our_own(settings.trl, arguments)
    try:
        return RSGRPOConfig(**{**arguments, **settings.trl})
    except (TypeError, ValueError) as fault:
        raise UserError(f"training settings are refused: {_one_line(fault)}") from fault


def translated(settings: TrainingConfig, checkpoints: Path) -> dict[str, Any]:
    """Return our settings under TRL's names, for one of `processes` ranks."""
    import torch

    rows = settings.prompts_per_step * settings.num_generations
    parts = settings.minibatches * settings.gradient_accumulation
    return {
        "output_dir": str(checkpoints),
        "advantage": settings.advantage.name,
        "risk_beta": _risk_beta(settings),
        "dynamic_sampling": settings.dynamic_sampling,
        "max_refill_rounds": settings.max_refill_rounds,
        "max_steps": settings.steps * settings.minibatches,
        "per_device_train_batch_size": rows // parts // settings.processes,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "steps_per_generation": parts,
        "num_generations": settings.num_generations,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "epsilon": settings.clip_low,
        "epsilon_high": settings.clip_high,
        "temperature": settings.temperature,
        "max_completion_length": settings.max_completion_length,
        "seed": settings.seed,
        "loss_type": "dapo",
        "beta": 0.0,
        "lr_scheduler_type": "constant",
        "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
        "ddp_backend": None if torch.cuda.is_available() or settings.processes == 1 else "gloo",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": settings.minibatches,
        "save_strategy": "steps",
        "save_steps": settings.save_every * settings.minibatches,
        "save_total_limit": settings.save_total_limit,
        "report_to": [],
        "disable_tqdm": True,
    }


def _build(**arguments: Any) -> RSGRPOTrainer:
    from transformers.trainer_callback import PrinterCallback

    from rsgrpo.training.trainer import RSGRPOTrainer

    try:
        trainer = RSGRPOTrainer(**arguments)
    except ValueError as fault:
        raise UserError(f"training settings are refused: {_one_line(fault)}") from fault
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextmanager
def _recorded(
    config: Config, identity: dict[str, Any], data: Path, out: Path
) -> Iterator[Spool | None]:
    """Open the run's spool in the first rank, with what is known at the start; None in others."""
    if rank():
        yield None
        return
    spool = Spool(out / SPOOL_NAME, training_run(str(identity["policy"]), out))
    with spool, _ending(spool):
        _start(spool, config, identity)
        record_environment(spool, out / "environment", config)
        record_dataset(spool, data)
        yield spool


def _observers(
    spool: Spool | None, settings: TrainingConfig, stopping: Stopping, ids: list[str]
) -> dict[str, Any]:
    """Return who follows the training: only the first rank records and shows progress."""
    from rsgrpo.training.callbacks import (
        AdvantageShapeRecorder,
        DrawRecorder,
        ProgressCallback,
        SpoolCallback,
    )

    if spool is None:
        return {"callbacks": [stopping]}
    updates = settings.minibatches
    return {
        "on_groups": AdvantageShapeRecorder(spool, settings.histogram_every, updates),
        "on_draws": DrawRecorder(spool, ids, updates),
        "callbacks": [SpoolCallback(spool, updates), ProgressCallback(updates), stopping],
    }


def _start(spool: Spool, config: Config, identity: dict[str, Any]) -> None:
    params = dict(flatten(config.model_dump(mode="json")))
    tags = {key: str(value) for key, value in identity.items()} | {"stage": "train"}
    spool.start(str(identity["policy"]), config.name, parent=config.name, tags=tags, params=params)


def _risk_beta(settings: TrainingConfig) -> float | dict[str, Any]:
    beta = settings.risk_beta
    if isinstance(beta, float):
        return beta
    return {"schedule": beta.schedule, **beta.arguments}


def _write_prompt(folder: Path, prompt: PromptConfig, dataset: Dataset, tokenizer: Any) -> None:
    """Keep the first prompt of the training set with the run, as the policy reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    [text] = render_prompts([dataset["problem"][0]], tokenizer, prompt)
    (folder / "prompt.txt").write_text(text, encoding="utf-8")


def _refuse_other_count(processes: int) -> None:
    started = world_size()
    if started != processes:
        raise UserError(
            f"training.processes is {processes}, but WORLD_SIZE is {started}: start {processes} "
            f"with the launcher torchrun or accelerate, or set training.processes to {started}"
        )


def _refuse_save_steps(settings: TrainingConfig) -> None:
    """Refuse a checkpoint in the middle of a generation step, from which no resume is exact."""
    save_steps = settings.trl.get("save_steps")
    if isinstance(save_steps, int):
        every = math.ceil(save_steps / settings.minibatches)
        raise UserError(
            f"training.trl sets save_steps to {save_steps} updates: checkpoints must lie between "
            f"steps of {settings.minibatches} updates (training.minibatches), or a resumed run "
            f"would differ, so set training.save_every to {max(every, 1)}"
        )


def _refuse_our_own(trl: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Refuse TRL arguments that would contradict the config that a run is recorded with."""
    ours = (set(arguments) - FREE) | {"num_iterations", "generation_batch_size"}
    if clash := sorted(ours & set(trl)):
        raise UserError(
            f"training.trl sets {clash[0]}, which the training branch decides: use its own keys"
        )
    if unsafe := sorted(k for k in trl if k in UNSAFE or k.startswith(UNSAFE_PREFIXES)):
        raise UserError(
            f"training.trl sets {unsafe[0]}: training runs no code of a checkpoint, uploads "
            "nothing, asks no other host and goes on exactly after a stop; remove it"
        )


@contextmanager
def _ending(spool: Spool) -> Iterator[None]:
    """Record how the run ended; one that goes on later is opened again."""
    try:
        yield
    except BaseException as fault:
        with suppress(OSError):
            spool.end("FAILED" if isinstance(fault, Exception) else "KILLED")
        raise
    spool.end()


def _one_line(fault: Exception) -> str:
    return " ".join(str(fault).split())
