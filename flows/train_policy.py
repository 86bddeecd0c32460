"""Flow: the training of one policy, after the base policy's where that is made here."""

from __future__ import annotations

from prefect import flow

from flows.run_stages import alone, finish, stages_of
from rsgrpo.config import Config
from rsgrpo.study import base_policy, trained_run
from rsgrpo.worker import Execution, resolve

DEFAULT_CONFIG, DEFAULT_EXECUTION = Config(), Execution()


@flow(name="train-policy", result_serializer="json")
def train_policy(config: Config = DEFAULT_CONFIG, execution: Execution = DEFAULT_EXECUTION) -> str:
    """Train one policy as the config's `training` branch says; return its folder."""
    place = resolve(execution)
    trained = trained_run(config, base_policy(config))
    assert trained.training is not None
    with stages_of(place), alone(config, place, trained):
        return str(finish(place, trained.training))
