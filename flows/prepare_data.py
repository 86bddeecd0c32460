"""Flow: the problems that a study trains and is evaluated on."""

from __future__ import annotations

from prefect import flow

from flows.run_stages import finish, stages_of
from rsgrpo.config import Config
from rsgrpo.study import prepared
from rsgrpo.worker import Execution, resolve

DEFAULT_CONFIG, DEFAULT_EXECUTION = Config(), Execution()


@flow(name="prepare-data", result_serializer="json")
def prepare_data(config: Config = DEFAULT_CONFIG, execution: Execution = DEFAULT_EXECUTION) -> str:
    """Prepare the training set and the benchmarks; return their folder."""
    place = resolve(execution)
    with stages_of(place):
        return str(finish(place, prepared(config)))
