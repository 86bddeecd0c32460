"""Flow: a whole study, from its data to its report: the base, GRPO and each beta, each seed."""

from __future__ import annotations

from prefect import flow

from flows.study_orders import run_in_prefect
from flows.units import base_unit, finish_units, other_units, trained_units
from rsgrpo.config import Config
from rsgrpo.worker import Execution

DEFAULT_CONFIG, DEFAULT_EXECUTION = Config(), Execution()


@flow(name="pipeline", result_serializer="json")
def pipeline(config: Config = DEFAULT_CONFIG, execution: Execution = DEFAULT_EXECUTION) -> str:
    """Run the study that the config's `study` branch names; return the analysis's folder."""
    return run_in_prefect(config, execution, run_every_unit)


def run_every_unit(config: Config, execution: Execution) -> None:
    """Finish all units of a study: the base first, since the others start at it."""
    finish_units([base_unit(config)], execution)
    finish_units([*trained_units(config), *other_units(config)], execution)
