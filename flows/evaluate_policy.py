"""Flow: one policy's samples, their verdicts, its pass@k."""

from __future__ import annotations

from prefect import flow

from flows.run_stages import alone, finish, stages_of
from rsgrpo.config import Config
from rsgrpo.study import base_policy, base_run, trained_run
from rsgrpo.worker import Execution, resolve

DEFAULT_CONFIG, DEFAULT_EXECUTION = Config(), Execution()


@flow(name="evaluate-policy", result_serializer="json")
def evaluate_policy(
    config: Config = DEFAULT_CONFIG,
    execution: Execution = DEFAULT_EXECUTION,
    trained: bool = True,
) -> str:
    """Sample, grade and score a policy; return the folder of its scores.

    Args:
        config: The study's config.
        execution: Where and how.
        trained: The policy that the `training` branch makes (trained first where it is not yet);
            False for the base policy.
    """
    base = base_policy(config)
    run = trained_run(config, base) if trained else base_run(config, base)
    place = resolve(execution)
    with stages_of(place), alone(config, place):
        return str(finish(place, run.score))
