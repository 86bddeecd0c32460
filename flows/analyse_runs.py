"""Flow: the questions asked of a study's finished runs."""

from __future__ import annotations

from prefect import flow

from flows.run_stages import finish, stages_of
from rsgrpo.config import Config
from rsgrpo.study import plan_study
from rsgrpo.worker import Execution, resolve

DEFAULT_CONFIG, DEFAULT_EXECUTION = Config(), Execution()


@flow(name="analyse-runs", result_serializer="json")
def analyse_runs(config: Config = DEFAULT_CONFIG, execution: Execution = DEFAULT_EXECUTION) -> str:
    """Analyse a study, whose runs are finished first where they are not; return its folder."""
    place = resolve(execution)
    with stages_of(place):
        return str(finish(place, plan_study(config).analysis))
