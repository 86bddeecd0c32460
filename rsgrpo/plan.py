"""What a study would do, before anything is done: its runs, its sizes, what it would take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rsgrpo.config import Config
from rsgrpo.data.catalogue import CATALOGUE
from rsgrpo.data.countdown import TIERS
from rsgrpo.estimates import (
    Batch,
    Term,
    batch_of,
    evaluation_hours,
    generation_memory,
    state_memory,
    total,
    training_hours,
    update_memory,
    weights_memory,
)
from rsgrpo.nodes import Node
from rsgrpo.policy.shape import Shape, policy_shape
from rsgrpo.study import base_policy, run_identity, study_configs


class Draws(NamedTuple):
    """What evaluation draws of one benchmark for one policy; `problems` is None where unknown."""

    benchmark: str
    problems: int | None
    samples: int


class Plan(NamedTuple):
    """A study resolved.

    `state` is what a training device holds all the time; `update` and `generation` are held in
    turns. `sampling` is an evaluation device's memory, `hours` the device time of the whole study.
    """

    name: str
    runs: tuple[str, ...]
    stages: dict[str, int]
    shape: Shape
    batch: Batch
    draws: tuple[Draws, ...]
    state: tuple[Term, ...]
    update: tuple[Term, ...]
    generation: Term
    sampling: tuple[Term, ...]
    hours: tuple[Term, ...]


def plan(config: Config) -> Plan:
    """Return what a study would do and take; no weights are loaded and nothing is written.

    Raises:
        UserError: The study needs a policy, or a checkpoint's files cannot be read.
    """
    runs = ("base", *(str(run_identity(one)["policy"]) for one in study_configs(config)))
    shape, batch, draws = policy_shape(config), batch_of(config), planned_draws(config)
    rows, length = config.sampling.batch_size, config.sampling.max_new_tokens
    tokens = config.plan.prompt_tokens + length
    return Plan(
        name=config.name,
        runs=runs,
        stages=_stages(config, len(runs)),
        shape=shape,
        batch=batch,
        draws=draws,
        state=state_memory(shape),
        update=update_memory(config, shape, batch),
        generation=generation_memory(shape, batch.rows // batch.processes, batch.length),
        sampling=(weights_memory(shape), generation_memory(shape, rows, tokens)),
        hours=(
            *training_hours(config, shape, len(runs) - 1),
            evaluation_hours(config, shape, _completions(draws, len(runs))),
        ),
    )


def plan_lines(config: Config) -> list[str]:
    """Return the plan of a study as lines of text.

    Raises:
        UserError: As for `plan`.
    """
    found, device = plan(config), config.plan.device_gib
    stages = ", ".join(f"{count} {stage}" for stage, count in found.stages.items())
    return [
        f"study       {found.name}: {stages}",
        f"runs        {', '.join(found.runs)}",
        f"policy      {_policy(config, found.shape)}",
        *_step_lines(config, found.batch),
        *_draw_lines(found),
        *_memory_lines(found, device),
        *_hour_lines(found),
        "assumed     "
        f"{config.plan.device_tflops:g} TFLOP/s and {device:g} GiB a device, prompts of "
        f"{config.plan.prompt_tokens} tokens, completions at their longest, no sharding; without "
        "attention's quadratic part, grading and refill rounds",
    ]


def planned_draws(config: Config) -> tuple[Draws, ...]:
    """Return what evaluation draws of each benchmark."""
    data, sampling = config.data, config.sampling
    if data.source == "countdown":
        problems: dict[str, int | None] = dict.fromkeys(TIERS, data.prompts_per_tier)
    else:
        problems = {name: _rows(place, data.limit) for name, place in data.benchmarks.items()}
    if sampling.benchmarks:
        problems = {name: rows for name, rows in problems.items() if name in sampling.benchmarks}
    return tuple(
        Draws(name, _fewer(count, sampling.limit), sampling.n_of.get(name, sampling.n))
        for name, count in problems.items()
    )


def _rows(place: str | Path, limit: int | None) -> int | None:
    """Return how many problems a catalogue name or a JSONL file stands for."""
    if str(place) in CATALOGUE:
        rows = CATALOGUE[str(place)].rows
    elif Path(place).is_file():
        rows = sum(1 for line in Path(place).read_bytes().splitlines() if line.strip())
    else:
        return None
    return _fewer(rows, limit)


def _fewer(rows: int | None, limit: int | None) -> int | None:
    return rows if rows is None or limit is None else min(rows, limit)


def _completions(draws: tuple[Draws, ...], policies: int) -> int | None:
    counts = [None if d.problems is None else d.problems * d.samples for d in draws]
    known = [count for count in counts if count is not None]
    return policies * sum(known) if len(known) == len(counts) else None


def _stages(config: Config, policies: int) -> dict[str, int]:
    counts = {"prepare": 1, "pretrain": 1 if isinstance(base_policy(config), Node) else 0}
    counts |= {"train": policies - 1}
    counts |= dict.fromkeys(("sample", "grade", "score"), policies) | {"analyse": 1}
    return {stage: count for stage, count in counts.items() if count}


def _policy(config: Config, shape: Shape) -> str:
    name = config.policy.checkpoint or "embedded"
    if shape.parameters is None:
        return f"{name}: parameters unknown: set plan.parameters"
    return f"{name}: P = {shape.parameters:,} parameters, from {shape.source}"


def _step_lines(config: Config, batch: Batch) -> list[str]:
    steps = config.training.steps
    return [
        f"devices     {batch.processes} in training, each with {batch.rows // batch.processes} of "
        f"{batch.rows} completions and {batch.micro_batch} at a time in an update",
        f"step        {batch.prompts} prompts x {batch.generations} generations, {batch.updates} "
        f"updates, {batch.rows * batch.length:,} tokens = {batch.rows} x ({batch.prompt_tokens} + "
        f"{batch.completion_tokens}) at most",
        f"training    {steps} steps, {steps * batch.updates} updates each run",
    ]


def _draw_lines(found: Plan) -> list[str]:
    each = [
        f"{d.benchmark} {'unknown' if d.problems is None else d.problems} x {d.samples}"
        for d in found.draws
    ]
    if not each:
        return ["evaluation  no benchmark is named"]
    completions = _completions(found.draws, len(found.runs))
    count = "unknown" if completions is None else f"{completions:,}"
    return [
        f"evaluation  {count} completions = {len(found.runs)} policies x problems x samples: "
        f"{', '.join(each)}"
    ]


def _memory_lines(found: Plan, device: float) -> list[str]:
    turns = [total(found.update), total((found.generation,))]
    held = [total(found.state), None if None in turns else max(t for t in turns if t is not None)]
    training = None if None in held else sum(h for h in held if h is not None)
    return [
        f"memory      {_fits('training', training, device)}, update and generation in turns:",
        *_terms((*found.state, *found.update, found.generation), "GiB"),
        f"memory      {_fits('sampling', total(found.sampling), device)}:",
        *_terms(found.sampling, "GiB"),
    ]


def _hour_lines(found: Plan) -> list[str]:
    hours = total(found.hours)
    count = "unknown" if hours is None else f"{hours:,.4g}"
    return [f"hours       {count} of one device for all runs:", *_terms(found.hours, "h")]


def _fits(what: str, needed: float | None, device: float) -> str:
    if needed is None:
        return f"a {what} device needs an unknown share of {device:g} GiB"
    verdict = "" if needed <= device else ", DOES NOT FIT"
    return f"a {what} device needs {needed:,.4g} of {device:g} GiB{verdict}"


def _terms(terms: Sequence[Term], unit: str) -> list[str]:
    return [f"  {term.name:<22}{_value(term, unit):>13}  {term.formula}" for term in terms]


def _value(term: Term, unit: str) -> str:
    if term.value is None:
        return f"unknown: set {', '.join(term.missing)}"
    return f"{term.value:,.4g} {unit}"
