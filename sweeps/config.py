"""The `sweep` branch of a study's YAML file: which settings vary, what is sought, when to stop."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rsgrpo.config_training import Model


class Parameter(Model):
    """One varied key: `values` to choose from, or a range `low` to `high`, both within it.

    A range whose numbers are all integers is one of integers; `log` draws its logarithm evenly,
    `step` counts from `low`. `when` names other varied keys and the value of each, or the list of
    values, under which this one exists; where one of those does not exist, neither does this.
    """

    values: tuple[Any, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = Field(None, gt=0)
    log: bool = False
    when: dict[str, Any] = Field({})

    @field_validator("values", "when", mode="before")
    @classmethod
    def _exponents_are_numbers(cls, value: Any) -> Any:
        return _with_numbers(value)

    @model_validator(mode="after")
    def _choices_or_range(self) -> Parameter:
        if bool(self.values) == (self.low is not None or self.high is not None):
            raise ValueError("give either values, or low and high")
        if self.values:
            return self._distinct_choices()
        if self.low is None or self.high is None or self.low > self.high:
            raise ValueError("a range needs low and high, low not above high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a range above 0 without a step")
        return self

    def _distinct_choices(self) -> Parameter:
        if self.log or self.step is not None:
            raise ValueError("log and step belong to a range: give low and high, or remove them")
        for place, value in enumerate(self.values):
            if value in self.values[:place]:
                raise ValueError(f"values must name a value once, and {value!r} is there twice")
        return self

    @property
    def integers(self) -> bool:
        """Whether it is a range of integers."""
        ends = (self.low, self.high, 1 if self.step is None else self.step)
        return not self.values and all(isinstance(number, int) for number in ends)

    @property
    def size(self) -> int:
        """How many points it has; 0 for a range without a step.

        Steps are counted in decimals, so that ten times 0.1 is 1.
        """
        if self.values or self.step is None:
            return len(self.values)
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
        return int((high - low) / step) + 1

    @property
    def points(self) -> tuple[Any, ...]:
        """Its values, or the points of a range with a step; none of another range."""
        return self.values or tuple(self._point(place) for place in range(self.size))

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value of a range.

        Raises:
            ValueError: It is no range.
        """
        if self.low is None or self.high is None:
            raise ValueError(f"the values {list(self.values)} have no ends")
        return self.low, self._point(self.size - 1) if self.step else self.high

    def nearest(self, value: float) -> float:
        """Return the point of a range with a step that a number means: 0.3 for 0.30000000000000004.

        One point written in two ways would be trained twice.
        """
        assert self.low is not None and self.step is not None
        return self._point(round((value - self.low) / self.step))

    def _point(self, place: int) -> float:
        value = Decimal(str(self.low)) + place * Decimal(str(self.step))
        return int(value) if self.integers else float(value)

    def exists(self, others: Mapping[str, Any]) -> bool:
        """Whether it exists beside the values of the other varied keys.

        Args:
            others: The values of those that exist.
        """
        return all(
            key in others and others[key] in alternatives(wanted)
            for key, wanted in self.when.items()
        )


def alternatives(wanted: Any) -> list[Any]:
    """Return the values that an entry of `when` names: those of a list, or the one."""
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def _with_numbers(value: Any) -> Any:
    """Read numbers such as 1e-4, which YAML takes for text where they have no point."""
    if isinstance(value, list | tuple):
        return [_with_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


class Objective(Model):
    """A metric to optimise: `pass_at_64`, `auc`, `aime24/maj_at_8`, `training/entropy`."""

    metric: str
    direction: Literal["maximize", "minimize"] = "maximize"


class Constraint(Model):
    """A bound on a metric; `base` is what the base policy reaches."""

    metric: str
    at_least: float | Literal["base"] | None = None
    at_most: float | Literal["base"] | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Constraint:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a constraint needs either at_least or at_most")
        if self.needs_base and self.metric.startswith("training/"):
            raise ValueError(
                f"the base policy is not trained, so it has no {self.metric}: give a number"
            )
        return self

    @property
    def needs_base(self) -> bool:
        """Whether the base policy must be evaluated."""
        return "base" in (self.at_least, self.at_most)


class SamplerConfig(Model):
    """Who chooses the next trial; the draw of each trial depends on `seed` and its number."""

    name: Literal["grid", "random", "tpe", "nsga2"] = "grid"
    seed: int = 0
    startup_trials: int = Field(10, ge=1)
    population: int = Field(20, ge=2)


class PrunerConfig(Model):
    """Whether a trial that trails is ended early, by pass@k of the prompts that training drew.

    `k` counts at most `training.num_generations`; a value is the mean of `every` steps.
    """

    name: Literal["none", "asha", "median"] = "none"
    k: int | None = Field(None, ge=1)
    every: int = Field(10, ge=1)
    warmup_steps: int = Field(0, ge=0)
    startup_trials: int = Field(4, ge=1)
    reduction_factor: int = Field(3, ge=2)


class StopsConfig(Model):
    """When a run is ended for its own good, the reason kept with its trial; None: never.

    `flat_reward_steps` counts steps on which every group had the same reward; `seconds` and
    `tokens` are those of one run's training, over all of its attempts.
    """

    non_finite: bool = True
    entropy_below: float | None = Field(None, gt=0)
    flat_reward_steps: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0)
    tokens: int | None = Field(None, ge=1)


class SweepConfig(Model):
    """A sweep: each trial is a point of the space, trained with every seed.

    `trials` is the number of trials, of a grid all of its points where it is left out. `retries`
    counts how often a seed whose process was killed is begun again; where more than
    `max_failure_rate` of at least four ended trials have failed, no further one is begun.
    """

    space: dict[str, Parameter] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    trials: int | None = Field(None, ge=1)
    sampler: SamplerConfig = SamplerConfig()
    objectives: tuple[Objective, ...] = Field(min_length=1)
    constraints: tuple[Constraint, ...] = ()
    pruner: PrunerConfig = PrunerConfig()
    stops: StopsConfig = StopsConfig()
    retries: int = Field(2, ge=0)
    max_failure_rate: float = Field(0.5, ge=0, le=1)

    @field_validator("objectives", mode="before")
    @classmethod
    def _names_are_maximized(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"metric": item} if isinstance(item, str) else item for item in value]

    @model_validator(mode="after")
    def _prunes_one_objective(self) -> SweepConfig:
        if len(self.objectives) > 1 and self.pruner.name != "none":
            raise ValueError(
                f"sweep.pruner is {self.pruner.name} and there are {len(self.objectives)} "
                "objectives: Optuna prunes studies of one alone; set it to none and use sweep.stops"
            )
        return self

    @model_validator(mode="after")
    def _complete(self) -> SweepConfig:
        if self.sampler.name != "grid" and self.trials is None:
            raise ValueError(
                f"sweep.sampler.name is {self.sampler.name}: say in sweep.trials how many to run"
            )
        metrics = [objective.metric for objective in self.objectives]
        if len(set(self.seeds)) < len(self.seeds) or len(set(metrics)) < len(metrics):
            raise ValueError("sweep.seeds and sweep.objectives must each name a value once")
        return self
