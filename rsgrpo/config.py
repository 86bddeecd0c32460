"""One tree of frozen models: every setting of a study, its vetted value the default of its class.

A YAML file in `configs/` names only what differs; several are laid over each other, and
`--set training.risk_beta=4` overrides a key.
Each stage depends on one branch of the tree, so that a changed setting redoes no more than it must.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from rsgrpo.config_faults import fault_sentence
from rsgrpo.config_files import merged, read_layers, source_of
from rsgrpo.config_training import Model, TrainingConfig
from rsgrpo.data.catalogue import CATALOGUE, could_be_a_name
from rsgrpo.errors import UserError, unknown


class DataConfig(Model):
    """Where problems come from: the enumerated Countdown task, named sets, or JSONL files.

    `train` and the values of `benchmarks` are names of the catalogue (`rsgrpo data list`) or paths
    of JSONL files with rows `{id, problem, answer}`; a list of benchmarks takes its names from
    them. Training rows that are in a benchmark are dropped unless `drop_overlaps` is false.
    """

    source: Literal["countdown", "jsonl"] = "countdown"
    seed: int = 0
    pool_per_tier: int = Field(200, ge=1)
    prompts_per_tier: int = Field(40, ge=1)
    train: Path | None = None
    benchmarks: dict[str, Path] = Field({})
    limit: int | None = Field(None, ge=1)
    drop_overlaps: bool = True

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _named_after_their_files(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        names = [Path(str(place)).stem for place in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two benchmarks are called {name}: write NAME: PATH for each")
        return dict(zip(names, value, strict=True))

    @field_validator("train")
    @classmethod
    def _train_is_known(cls, value: Path | None) -> Path | None:
        return None if value is None else _known_place(value)

    @field_validator("benchmarks")
    @classmethod
    def _benchmarks_are_known(cls, value: dict[str, Path]) -> dict[str, Path]:
        return {name: _known_place(place) for name, place in value.items()}

    @model_validator(mode="after")
    def _files_and_source_agree(self) -> DataConfig:
        files = bool(self.train or self.benchmarks)
        if self.source == "jsonl" and not files:
            raise ValueError("data.source is jsonl: name a file in data.train or data.benchmarks")
        if self.source != "jsonl" and files:
            raise ValueError("files are named, so set data.source to jsonl")
        for name in self.benchmarks:
            if not re.fullmatch(r"[\w.-]+", name) or name in ("mean", "all") or name[0] == ".":
                raise ValueError(
                    f"benchmark {name!r} cannot be a name: use letters, digits, '.', '_' and '-', "
                    "and neither 'mean' nor 'all'"
                )
        return self


def _known_place(place: Path) -> Path:
    if could_be_a_name(str(place)) and str(place) not in CATALOGUE:
        known = unknown("data set", str(place), list(CATALOGUE))
        raise ValueError(f"{known}; the name of a file ends in .jsonl")
    return place


class PretrainConfig(Model):
    """The peaked pre-training of the embedded policy (settings of the feasibility study)."""

    steps: int = Field(2500, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    warmup_steps: int = Field(50, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    tier_mix: tuple[float, ...] = (0.46, 0.45, 0.06, 0.022, 0.005, 0.002)
    operator_weights: dict[Literal["+", "-", "*", "/"], float] = Field(
        {"+": 1.0, "-": 0.5, "*": 0.05, "/": 0.02}
    )
    save_every: int = Field(500, ge=1)

    @model_validator(mode="after")
    def _complete(self) -> PretrainConfig:
        if len(self.tier_mix) != 6 or min(self.tier_mix) < 0 or sum(self.tier_mix) <= 0:
            raise ValueError("tier_mix needs one weight for each of the six tiers, some above 0")
        if set(self.operator_weights) != set("+-*/") or min(self.operator_weights.values()) <= 0:
            raise ValueError("operator_weights needs a weight above 0 for each of + - * /")
        return self


class PolicyConfig(Model):
    """The base policy: pre-trained here from scratch, or a Hugging Face checkpoint directory."""

    checkpoint: str | None = None
    hidden_size: int = Field(64, ge=2)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    mlp_size: int = Field(128, ge=1)
    seed: int = 0
    pretrain: PretrainConfig = PretrainConfig()

    @model_validator(mode="after")
    def _heads_divide(self) -> PolicyConfig:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"policy.hidden_size is {self.hidden_size}: it must be a multiple of twice "
                f"policy.heads = {self.heads}"
            )
        return self


class SamplingConfig(Model):
    """How completions are drawn for evaluation: `n` for each problem of the split.

    `n_of` takes the place of `n` for the benchmarks that it names. `backend` is `local`
    (transformers on this machine) or `server` (see `ServingConfig`). `benchmarks` names those that
    are drawn, all where it is empty; `limit` takes the first problems of each.
    """

    backend: Literal["local", "server"] = "local"
    split: Literal["development", "test"] = "development"
    n: int = Field(256, ge=1)
    n_of: dict[str, Annotated[int, Field(ge=1)]] = Field({})
    benchmarks: tuple[str, ...] = ()
    limit: int | None = Field(None, ge=1)
    batch_size: int = Field(2048, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(10, ge=1)
    seed: int = 0


class ServingConfig(Model):
    """Where the back end `server` sends its requests; no result depends on it.

    `urls` are OpenAI-compatible servers that serve the same policy; `model` is its name there, by
    default the only one that a server lists. The key, where one is needed, is in the environment
    variable `key_variable`. `in_flight` counts requests to each server, `timeout` the seconds that
    one may take, `retries` how often it is sent again after a failure.
    """

    urls: tuple[str, ...] = Field(("http://127.0.0.1:8000",), min_length=1)
    model: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    in_flight: int = Field(64, ge=1)
    timeout: float = Field(600.0, gt=0)
    retries: int = Field(5, ge=0)


class GradingConfig(Model):
    """Which verifier decides, and how it is kept from hanging.

    `timeout` counts seconds for one answer, `workers` processes, `memory_mib` MiB for each. An
    extracted text longer than `max_chars` that is not equal at sight is an `error`, unread.
    """

    verifier: Literal["countdown", "math_verify"] = "countdown"
    extract: Literal["boxed", "full"] = "boxed"
    timeout: float = Field(5.0, gt=0)
    workers: int = Field(1, ge=1)
    memory_mib: int = Field(2048, ge=256)
    max_chars: int = Field(100_000, ge=1)


class PromptConfig(Model):
    """How a problem becomes a prompt (`policy/prompts.py`); `system` is for the chat template."""

    template: Literal["plain", "chat", "qwen_math"] = "plain"
    system: str = ""
    suffix: str = ""

    @model_validator(mode="after")
    def _only_chat_has_a_system_message(self) -> PromptConfig:
        if self.system and self.template != "chat":
            raise ValueError(
                f"prompt.system is for the template chat, not {self.template}: remove one of them"
            )
        return self


class EvaluationConfig(Model):
    """Which k are reported, and how the intervals are drawn."""

    ks: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    headline_k: int = 64
    resamples: int = Field(2000, ge=100)
    seed: int = 0


class StudyConfig(Model):
    """Which runs are compared: GRPO and one RS-GRPO run for each beta, each with every seed.

    `rollouts` names files of completions made elsewhere, which are graded and scored beside them.
    """

    grpo: bool = True
    risk_betas: tuple[float, ...] = (0.0, 2.0, 4.0, 8.0)
    seeds: tuple[int, ...] = Field((0, 1), min_length=1)
    headline_beta: float = 4.0
    rollouts: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Path] = Field({})

    @model_validator(mode="after")
    def _each_run_once(self) -> StudyConfig:
        betas = [f"{beta:g}" for beta in self.risk_betas]
        if len(set(betas)) < len(betas) or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("study.risk_betas and study.seeds must each name a value once")
        if taken := {"base", "trained"} & set(self.rollouts):
            raise ValueError(f"study.rollouts names {taken.pop()!r}, part of every study: rename")
        return self


class PlanConfig(Model):
    """What the dry run's estimates assume; no stage reads it.

    The first five describe a checkpoint that is not on this disk. The device is an H100 SXM: 989
    TFLOP/s dense in bfloat16, 80 GiB. The shares of it and `prompt_tokens` are guesses.
    """

    parameters: int | None = Field(None, ge=1)
    layers: int | None = Field(None, ge=1)
    hidden_size: int | None = Field(None, ge=1)
    kv_size: int | None = Field(None, ge=1)
    vocabulary: int | None = Field(None, ge=1)
    prompt_tokens: int = Field(256, ge=1)
    device_tflops: float = Field(989.0, gt=0)
    device_gib: float = Field(80.0, gt=0)
    generation_share: float = Field(0.05, gt=0, le=1)
    update_share: float = Field(0.3, gt=0, le=1)


class Config(Model):
    """A whole study: data, policy, training, sampling, grading, evaluation and what to compare."""

    name: str = Field("study", pattern=r"^[\w.-]+$")
    data: DataConfig = DataConfig()
    policy: PolicyConfig = PolicyConfig()
    prompt: PromptConfig = PromptConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    serving: ServingConfig = ServingConfig()
    grading: GradingConfig = GradingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    study: StudyConfig = StudyConfig()
    plan: PlanConfig = PlanConfig()

    @model_validator(mode="after")
    def _verifier_fits_the_data(self) -> Config:
        wanted = "countdown" if self.data.source == "countdown" else "math_verify"
        if self.grading.verifier != wanted:
            raise ValueError(
                f"data.source is {self.data.source} but grading.verifier is "
                f"{self.grading.verifier}: set grading.verifier to {wanted}"
            )
        return self


def load_config(paths: Path | Sequence[Path] | None, overrides: Sequence[str] = ()) -> Config:
    """Read YAML files (or the defaults) and apply overrides such as `training.risk_beta=4`.

    Args:
        paths: One YAML file or several, of which later ones win, branch by branch; None for the
            defaults alone. Paths inside a file are relative to it.
        overrides: `dotted.key=value` strings; values are read as YAML.

    Raises:
        UserError: A file is missing or no YAML mapping, or a key or value is not allowed; the
            sentence names the key, the file that holds it, the value met and the nearest known
            name.
    """
    layers = read_layers([paths] if isinstance(paths, Path) else paths or (), overrides)
    tree = merged(layers)
    if "sweep" in tree:
        raise UserError(
            f"config key sweep{source_of(['sweep'], layers)} makes the study a sweep: run it with "
            "`rsgrpo sweep run FILE`, or take that branch out"
        )
    try:
        return Config.model_validate(tree)
    except ValidationError as fault:
        raise UserError(fault_sentence(fault, Config, layers)) from None


def math_grading(**settings: Any) -> GradingConfig:
    """Return the grading of a file of rollouts with Math-Verify.

    Raises:
        UserError: A setting is not allowed; the sentence names it and the value met.
    """
    try:
        return GradingConfig(verifier="math_verify", **settings)
    except ValidationError as fault:
        raise UserError(fault_sentence(fault, GradingConfig, ())) from None


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `(dotted.key, leaf)` for each leaf of a nested mapping."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree
