"""A study as nodes: one base policy, the runs that are compared, and what is asked of them.

This only says what follows from what. Who gives the order (a command, a flow, a sweep) and on which
machine is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rsgrpo.config import Config
from rsgrpo.config_training import AdvantageConfig
from rsgrpo.data.catalogue import file_of
from rsgrpo.errors import UserError
from rsgrpo.nodes import Input, Node
from rsgrpo.stages import read_manifest
from rsgrpo.training.named_rewards import reward_version


class Run(NamedTuple):
    """One policy of a study: who it is, how it is trained (None for the base), how it scores."""

    identity: dict[str, Any]
    training: Node | None
    score: Node

    @property
    def name(self) -> str:
        """The policy's name."""
        return str(self.identity["policy"])


class Study(NamedTuple):
    """All nodes of a study; `rollouts` are scored beside its runs and not part of the analysis."""

    base: Input
    runs: list[Run]
    rollouts: list[Run]
    analysis: Node


def plan_study(config: Config) -> Study:
    """Return the nodes of a study: the base and each method with each seed, then the analysis.

    Rollouts made elsewhere are of other prompts than the study's, so that they stand apart.
    """
    base = base_policy(config)
    runs = [base_run(config, base), *(trained_run(c, base) for c in study_configs(config))]
    scores: dict[str, Node | Path] = {run.name: run.score for run in runs}
    trainings: dict[str, Node | Path] = {r.name: r.training for r in runs if r.training}
    inputs: dict[str, Input] = {"scores": scores, "runs": trainings}
    rollouts = [rollouts_run(config, name) for name in config.study.rollouts]
    return Study(base, runs, rollouts, Node("analyse", config.name, config, inputs))


def named_run(config: Config, policy: str) -> Run:
    """Return one run of a study.

    Args:
        config: The study; its `training` branch is the run's own.
        policy: `trained` for the policy that the `training` branch makes, `base` for the one that
            it starts from, or a name under `study.rollouts`.
    """
    if policy in config.study.rollouts:
        return rollouts_run(config, policy)
    base = base_policy(config)
    return base_run(config, base) if policy == "base" else trained_run(config, base)


def rollouts_run(config: Config, name: str) -> Run:
    """Return the grading and scoring of a file of completions made elsewhere."""
    identity = {"policy": name, "method": "rollouts", "risk_beta": None, "seed": 0}
    file = config.study.rollouts[name]
    graded = Node("grade_rollouts", name, config, {"rollouts": file})
    return Run(
        identity, None, Node("score", name, config, {"graded": graded}, {"identity": identity})
    )


def study_configs(config: Config) -> Iterator[Config]:
    """Yield the config of each run: GRPO, then RS-GRPO with each beta, each with every seed."""
    methods: list[tuple[str, float]] = [("grpo", 0.0)] if config.study.grpo else []
    methods += [("rs_grpo", beta) for beta in config.study.risk_betas]
    for name, beta in methods:
        for seed in config.study.seeds:
            changed: dict[str, Any] = {"advantage": AdvantageConfig(name=name), "seed": seed}
            if name == "rs_grpo":
                changed["risk_beta"] = beta
            training = config.training.model_copy(update=changed)
            yield config.model_copy(update={"training": training})


def base_policy(config: Config) -> Input:
    """Return the base policy: a checkpoint of one's own, or the embedded one's pre-training.

    Raises:
        UserError: Problems of one's own are given and no checkpoint: the embedded policy speaks
            Countdown alone.
    """
    checkpoint = config.policy.checkpoint
    if checkpoint:
        return Path(checkpoint) if Path(checkpoint).exists() else checkpoint
    if config.data.source != "countdown":
        raise UserError("problems of one's own need a policy: name it in policy.checkpoint")
    data = prepared(config)
    return Node("pretrain", f"base-seed{config.policy.seed}", config, {"data": data})


def base_run(config: Config, base: Input) -> Run:
    """Return the evaluation of the base policy; one that was trained here keeps its name."""
    identity = {"policy": "base", "method": "base", "risk_beta": None, "seed": config.policy.seed}
    if isinstance(base, Path) and (manifest := read_manifest(base)):
        identity = manifest["depends_on"]["extras"].get("identity", identity)
    return Run(identity, None, score_node(config, base, identity))


def trained_run(config: Config, base: Input) -> Run:
    """Return the training of `config.training` from a base, and its evaluation.

    The evaluation's random stream differs from the base's and between training seeds.
    """
    identity = run_identity(config)
    inputs = {"data": prepared(config), "policy": base}
    extras: dict[str, Any] = {"identity": identity}
    if version := reward_version(config.training.reward):
        extras["reward_version"] = version
    training = Node("train", identity["policy"], config, inputs, extras)
    sampling = config.sampling
    seeded = sampling.model_copy(update={"seed": sampling.seed + 1 + config.training.seed})
    evaluated = config.model_copy(update={"sampling": seeded})
    return Run(identity, training, score_node(evaluated, training, identity))


def run_identity(config: Config) -> dict[str, Any]:
    """Return who a run is: policy name, method, risk beta (None unless a fixed one) and seed."""
    training = config.training
    method, seed = training.advantage.name, training.seed
    beta = training.risk_beta if isinstance(training.risk_beta, float) else None
    middle = ""
    if method == "rs_grpo":
        middle = "-schedule" if beta is None else f"-beta{beta:g}"
    risk_beta = beta if method == "rs_grpo" else None
    name = f"{method}{middle}-seed{seed}"
    return {"policy": name, "method": method, "risk_beta": risk_beta, "seed": seed}


def score_node(config: Config, policy: Input, identity: dict[str, Any]) -> Node:
    """Return the chain sample -> grade -> score of a policy."""
    name, data = str(identity["policy"]), prepared(config)
    samples = Node("sample", name, config, {"data": data, "policy": policy})
    graded = Node("grade", name, config, {"data": data, "samples": samples})
    return Node("score", name, config, {"graded": graded}, {"identity": identity})


def prepared(config: Config) -> Node:
    """Return the preparation of the study's data; its files are known by their content.

    Raises:
        UserError: A named set is not prepared.
    """
    data = config.data
    files: dict[str, Node | Path] = {"train": file_of(data.train)} if data.train else {}
    files |= {f"benchmarks/{name}": file_of(place) for name, place in data.benchmarks.items()}
    return Node("prepare", data.source, config, {"files": files} if files else {})
