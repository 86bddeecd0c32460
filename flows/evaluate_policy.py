"""Flow: one policy's samples, their verdicts, its pass@k."""

from __future__ import annotations

from prefect import flow

from flows.run_stages import alone, finish, stages_of
from rsgrpo.config import Config
from rsgrpo.study import named_run
from rsgrpo.worker import Execution, resolve

DEFAULT_CONFIG, DEFAULT_EXECUTION = Config(), Execution()


@flow(name="evaluate-policy", result_serializer="json")
def evaluate_policy(
    config: Config = DEFAULT_CONFIG,
    execution: Execution = DEFAULT_EXECUTION,
    policy: str = "trained",
) -> str:
    """Sample, grade and score a policy; return the folder of its scores.

    Args:
        config: The study's config.
        execution: Where and how.
        policy: `trained` for the policy that the `training` branch makes (trained first where it
            is not yet), `base` for the one it starts from, or a name under `study.rollouts`.
    """
    run = named_run(config, policy)
    place = resolve(execution)
    with stages_of(place), alone(config, place, run):
        return str(finish(place, run.score))
