"""What a study would take: memory of a device and device hours, each part with its formula.

The formulas are upper bounds of a simple kind: every completion is taken at its longest.
Attention's quadratic part, grading, and rounds of dynamic sampling are left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from rsgrpo.config import Config
from rsgrpo.policy.shape import Shape

GIB = 2**30
_KV = "keys and values in bfloat16, 4 bytes x layers x kv size"


class Term(NamedTuple):
    """One part of an estimate: GiB or hours, or what must be known for it, and the formula."""

    name: str
    value: float | None
    formula: str
    missing: tuple[str, ...] = ()


class Batch(NamedTuple):
    """One training step over all processes, each of which takes `micro_batch` rows at a time."""

    prompts: int
    generations: int
    processes: int
    micro_batch: int
    updates: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def rows(self) -> int:
        """Completions of a step."""
        return self.prompts * self.generations

    @property
    def length(self) -> int:
        """Tokens of a row: the prompt and a completion at its longest."""
        return self.prompt_tokens + self.completion_tokens


def batch_of(config: Config) -> Batch:
    """Return the sizes of a training step."""
    training = config.training
    rows = training.prompts_per_step * training.num_generations
    parts = training.minibatches * training.gradient_accumulation * training.processes
    return Batch(
        training.prompts_per_step,
        training.num_generations,
        training.processes,
        rows // parts,
        training.minibatches,
        config.plan.prompt_tokens,
        training.max_completion_length,
    )


def state_memory(shape: Shape) -> tuple[Term, ...]:
    """Return what a training device holds all the time, in GiB: weights are not sharded."""
    return (
        _memory("weights and optimizer", "AdamW in float32: 16 bytes a parameter", shape, 16, "P"),
        _memory("copies for autocast", "bfloat16: 2 bytes a parameter", shape, 2, "P"),
    )


def weights_memory(shape: Shape) -> Term:
    """Return what a policy's weights alone take in evaluation, in GiB."""
    return _memory("weights", "bfloat16: 2 bytes a parameter", shape, 2, "P")


def update_memory(config: Config, shape: Shape, batch: Batch) -> tuple[Term, ...]:
    """Return what an update adds to it, in GiB."""
    tokens = batch.micro_batch * batch.length
    at = f"x {batch.micro_batch} rows x {batch.length} tokens x hidden size"
    scored = batch.micro_batch * (batch.completion_tokens + 1)
    logits = f"float32 with gradient: 8 bytes x {scored} completion tokens x vocabulary"
    activations = (
        (
            _memory("layer inputs", f"2 bytes x layers {at}", shape, 2 * tokens, "layers", "width"),
            _memory("layer at work", f"34 bytes {at}", shape, 34 * tokens, "width"),
        )
        if checkpoints_activations(config)
        else (
            _memory(
                "activations", f"34 bytes x layers {at}", shape, 34 * tokens, "layers", "width"
            ),
        )
    )
    return (*activations, _memory("logits", logits, shape, 8 * scored, "vocabulary"))


def generation_memory(shape: Shape, rows: int, tokens: int) -> Term:
    """Return what generating adds, in GiB: `rows` sequences of `tokens` at once."""
    formula = f"{_KV} x {rows} rows x {tokens} tokens"
    return _memory("generation", formula, shape, 4 * rows * tokens, "layers", "kv")


def training_hours(config: Config, shape: Shape, trainings: int) -> tuple[Term, ...]:
    """Return the device hours of all trainings: generation, and updates."""
    batch, steps = batch_of(config), trainings * config.training.steps
    factor = 8 if checkpoints_activations(config) else 6
    tokens = steps * batch.rows * batch.length
    update = f"(2 P for old log-probabilities + {factor} P) FLOPs a token"
    assumed = config.plan
    return (
        _hours(
            "generation", tokens, 2, "2 P FLOPs a token", shape, config, assumed.generation_share
        ),
        _hours("updates", tokens, 2 + factor, update, shape, config, assumed.update_share),
    )


def evaluation_hours(config: Config, shape: Shape, completions: int | None) -> Term:
    """Return the device hours of drawing `completions`; None where their number is unknown."""
    length = config.plan.prompt_tokens + config.sampling.max_new_tokens
    if completions is None:
        return Term("evaluation", None, "2 P FLOPs a token", ("the benchmarks' files",))
    share = config.plan.generation_share
    tokens = completions * length
    return _hours("evaluation", tokens, 2, "2 P FLOPs a token", shape, config, share)


def total(terms: tuple[Term, ...]) -> float | None:
    """Return the sum of an estimate's parts, None where one is unknown."""
    values = [term.value for term in terms if term.value is not None]
    return sum(values) if len(values) == len(terms) else None


def checkpoints_activations(config: Config) -> bool:
    """Return whether updates compute activations anew: on a GPU always, unless told not to."""
    return bool(config.training.trl.get("gradient_checkpointing", True))


_FIELDS = {
    "P": "parameters",
    "layers": "layers",
    "width": "hidden_size",
    "kv": "kv_size",
    "vocabulary": "vocabulary",
}


def _memory(name: str, formula: str, shape: Shape, factor: int, *sizes: str) -> Term:
    fields = {_FIELDS[size]: getattr(shape, _FIELDS[size]) for size in sizes}
    missing = tuple(f"plan.{field}" for field, value in fields.items() if value is None)
    value = None if missing else factor * math.prod(fields.values()) / GIB
    return Term(name, value, formula, missing)


def _hours(
    name: str, tokens: int, factor: int, per_token: str, shape: Shape, config: Config, share: float
) -> Term:
    speed = config.plan.device_tflops
    formula = f"{tokens:,} tokens x {per_token} / ({speed:g} TFLOP/s x {share:g})"
    if shape.parameters is None:
        return Term(name, None, formula, ("plan.parameters",))
    seconds = factor * shape.parameters * tokens / (speed * 1e12 * share)
    return Term(name, seconds / 3600, formula)
