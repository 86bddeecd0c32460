"""Flow: one (trial, seed), the unit that a worker takes: a policy trained and evaluated."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.evaluate_policy import evaluate_policy
from flows.run_stages import alone, stages_of
from flows.train_policy import train_policy
from flows.trial_units import TrialUnit, run_unit
from rsgrpo.config import Config
from rsgrpo.study import named_run
from rsgrpo.worker import Execution, resolve

DEFAULT_CONFIG, DEFAULT_EXECUTION = Config(), Execution()


@flow(name="run-trial", result_serializer="json")
def run_trial(
    config: Config = DEFAULT_CONFIG,
    execution: Execution = DEFAULT_EXECUTION,
    policy: str = "trained",
    unit: TrialUnit | None = None,
) -> Any:
    """Train a policy as the `training` branch says and evaluate it; return its scores' folder.

    Args:
        config: The study's config with this unit's beta and seed in its `training` branch.
        execution: Where and how.
        policy: As for `evaluate_policy`; what is not `trained` here is evaluated alone.
        unit: Which unit of which sweep it is, whose coordinator then records and ships it.
    """
    place = resolve(execution)
    if unit is not None:
        with stages_of(place):
            return run_unit(config, place, unit)
    with stages_of(place), alone(config, place, named_run(config, policy)):
        if policy == "trained":
            train_policy(config, execution)
        return evaluate_policy(config, execution, policy)
