"""A study through Prefect: the same course as everywhere, its orders given to flows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flows.analyse_runs import analyse_runs
from flows.prepare_data import prepare_data
from flows.run_stages import stages_of
from flows.run_study import publish, run_study
from flows.shown import show_study
from rsgrpo.config import Config
from rsgrpo.study import Study, plan_study
from rsgrpo.worker import Execution, resolve

RunAll = Callable[[Config, Execution], None]


class FlowOrders:
    """Has a study's data and analysis made by their flows, and its runs by `run_all`."""

    def __init__(self, execution: Execution, run_all: RunAll) -> None:
        """Take where and how stages run, and what runs the units."""
        self._execution = execution
        self._run_all = run_all

    def prepare(self, config: Config) -> Path:
        """Finish the study's data; return its folder."""
        return Path(prepare_data(config, self._execution))

    def run_all(self, config: Config, study: Study) -> None:
        """Finish every run."""
        self._run_all(config, self._execution)

    def analyse(self, config: Config, study: Study) -> Path:
        """Finish the analysis; return its folder."""
        return Path(analyse_runs(config, self._execution))


def run_in_prefect(config: Config, execution: Execution, run_all: RunAll) -> str:
    """Run a study within a flow, show its results in Prefect, return the analysis's folder.

    Raises:
        UserError: A name is not in this worker's table, or a stage failed.
    """
    place, study = resolve(execution), plan_study(config)
    orders = FlowOrders(execution, run_all)
    with stages_of(place):
        analysis = run_study(config, study, place.root, orders, place.tracking_uri)
        links = {"Report": (place.root / "report.html").as_uri()}
        if place.tracking_uri:
            links["MLflow"] = place.tracking_uri
        summary = publish(place.root, analysis)
        show_study(summary, config.name, config.evaluation.headline_k, links)
    return str(analysis)
