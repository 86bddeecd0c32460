"""The training branch of the config, and what every branch is made of."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from rsgrpo.errors import unknown
from rsgrpo.schedules import SCHEDULES, Schedule

ADVANTAGE_NAMES = ("rs_grpo", "grpo", "dr_grpo")
DEFAULT_REWARD = "verifier"
# What each kind of schedule takes, and how one is written.
SCHEDULE_KEYS = {
    "constant": ("start",),
    "linear": ("start", "end"),
    "cosine": ("start", "end"),
    "exponential": ("start", "end"),
    "phases": ("values", "at"),
}
_EXAMPLES = {
    "constant": "a start: {schedule: constant, start: 8}",
    "linear": "a start and an end: {schedule: linear, start: 8, end: 1}",
    "cosine": "a start and an end: {schedule: cosine, start: 8, end: 1}",
    "exponential": "a start and an end: {schedule: exponential, start: 8, end: 1}",
    "phases": "values and at: {schedule: phases, values: [8, 4, 1], at: [0.3, 0.7]}",
}


class Model(BaseModel):
    """A frozen branch of the tree that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AdvantageConfig(Model):
    """Which estimator turns a group's rewards into advantages."""

    name: str = "rs_grpo"

    @model_validator(mode="after")
    def _known(self) -> AdvantageConfig:
        if self.name not in ADVANTAGE_NAMES:
            raise ValueError(unknown("advantage", self.name, ADVANTAGE_NAMES))
        return self


class ScheduleConfig(Model):
    """A risk parameter over training.

    It stays at `start`, or goes from it to `end` linearly, along half a cosine or exponentially
    (both on one side of 0); or it takes each of `values` in turn, the next from each share of
    training in `at`: `{schedule: phases, values: [8, 4, 1], at: [0.3, 0.7]}`.
    """

    schedule: Literal["constant", "linear", "cosine", "exponential", "phases"]
    start: float | None = None
    end: float | None = None
    values: tuple[float, ...] | None = None
    at: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _takes_its_own_keys(self) -> ScheduleConfig:
        takes = SCHEDULE_KEYS[self.schedule]
        article = "an" if self.schedule == "exponential" else "a"
        for key in takes:
            if getattr(self, key) is None:
                raise ValueError(
                    f"{article} {self.schedule} schedule needs {_EXAMPLES[self.schedule]}"
                )
        for key in ("start", "end", "values", "at"):
            if key not in takes and getattr(self, key) is not None:
                others = [kind for kind, keys in SCHEDULE_KEYS.items() if key in keys]
                raise ValueError(
                    f"{article} {self.schedule} schedule has no {key}: remove it, or write "
                    f"schedule: {others[0]}"
                )
        self.build()
        return self

    def build(self) -> Schedule:
        """Return the schedule as a function of progress."""
        return SCHEDULES[self.schedule](**self.arguments)

    @property
    def arguments(self) -> dict[str, Any]:
        """What its kind takes."""
        return {key: getattr(self, key) for key in SCHEDULE_KEYS[self.schedule]}


def _number_or_schedule(value: Any) -> str:
    return "schedule" if isinstance(value, dict | ScheduleConfig) else "number"


RiskBeta = Annotated[
    Annotated[float, Tag("number")] | Annotated[ScheduleConfig, Tag("schedule")],
    Discriminator(_number_or_schedule),
]


class TrainingConfig(Model):
    """One RL run. A step draws `prompts_per_step * num_generations` completions.

    `reward` names what training rewards: `verifier` is the grader of the evaluation; any other name
    is one that an installed package registers. `processes` train together, started by a launcher.
    `trl` passes further TRL arguments through by name; those that RS-GRPO cannot honour are
    refused when the trainer is built.
    """

    advantage: AdvantageConfig = AdvantageConfig()
    risk_beta: RiskBeta = 2.0
    reward: str = DEFAULT_REWARD
    dynamic_sampling: Literal["off", "drop", "refill"] = "drop"
    max_refill_rounds: int = Field(4, ge=1)
    steps: int = Field(100, ge=1)
    prompts_per_step: int = Field(48, ge=1)
    num_generations: int = Field(16, ge=2)
    minibatches: int = Field(2, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    learning_rate: float = Field(1.5e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.28, gt=0)
    temperature: float = Field(1.0, gt=0)
    max_completion_length: int = Field(10, ge=1)
    seed: int = 0
    processes: int = Field(1, ge=1)
    save_every: int = Field(25, ge=1)
    save_total_limit: int = Field(2, ge=1)
    histogram_every: int = Field(10, ge=1)
    trl: dict[str, Any] = {}

    @field_validator("dynamic_sampling", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _divides(self) -> TrainingConfig:
        self._refuse_split_groups()
        rows = self.prompts_per_step * self.num_generations // self.processes
        parts = self.minibatches * self.gradient_accumulation
        if rows % parts:
            raise ValueError(
                f"prompts_per_step * num_generations = {rows} completions{self._each()} cannot be "
                f"split evenly into minibatches * gradient_accumulation = {parts}: change one of "
                "them"
            )
        return self

    def _refuse_split_groups(self) -> None:
        if over := self.prompts_per_step % self.processes:
            more = self.prompts_per_step - over + self.processes
            fewer = math.gcd(self.prompts_per_step, self.processes)
            raise ValueError(
                f"prompts_per_step = {self.prompts_per_step} groups cannot be shared evenly by "
                f"training.processes = {self.processes}: set prompts_per_step to {more} or "
                f"processes to {fewer}"
            )

    def _each(self) -> str:
        return f" of each of {self.processes} processes" if self.processes > 1 else ""
