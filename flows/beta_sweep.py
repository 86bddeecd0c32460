"""Flow: a sweep over beta as an Optuna study; its units are the (trial, seed) pairs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import optuna
from prefect import flow

from flows.study_orders import run_in_prefect
from flows.units import (
    Outcome,
    Unit,
    base_unit,
    finish_units,
    other_units,
    refuse_failed,
    run_units,
    trained_units,
)
from rsgrpo.config import Config
from rsgrpo.stages import find, finished, folder_of
from rsgrpo.study import Run, base_policy, base_run, trained_run
from rsgrpo.worker import Execution, resolve
from sweeps.beta_study import SeedValue, next_betas, open_study, seed_value, tell, tell_failure

DEFAULT_CONFIG, DEFAULT_EXECUTION = Config(), Execution()


@flow(name="beta-sweep", result_serializer="json")
def beta_sweep(config: Config = DEFAULT_CONFIG, execution: Execution = DEFAULT_EXECUTION) -> str:
    """Sweep the betas of the config's `study` branch; return the analysis's folder.

    The base policy and GRPO, which have no beta, are run beside the study to compare with.
    """
    return run_in_prefect(config, execution, run_trials)


def run_trials(config: Config, execution: Execution) -> None:
    """Finish the base, GRPO, and every trial that Optuna gives."""
    finish_units([base_unit(config)], execution)
    root = resolve(execution).root
    sweep = Sweep(config, root, open_study(config, root, made_of(config, root)))
    failed = []
    for outcome in run_units(sweep.units(), execution):
        sweep.take(outcome)
        failed += [outcome] if outcome.fault else []
    refuse_failed(failed)


def made_of(config: Config, root: Path) -> str:
    """Return what all trials share beside the config: the keys of data, base, code and packages."""
    base = base_policy(config)
    shared = (trained_run(config, base).training, base_run(config, base).score)
    return " ".join(str(node and folder_of(root, node)).rpartition("-")[2] for node in shared)


def _run_of(unit: Unit) -> Run:
    return trained_run(unit.config, base_policy(unit.config))


class Sweep:
    """Asks the study for trials, cuts them into units, and tells it what all seeds gave."""

    def __init__(self, config: Config, root: Path, study: optuna.Study) -> None:
        """Take the sweep's config, output root and study."""
        self._config, self._root, self._study = config, root, study
        self._trial_of: dict[str, int] = {}
        self._outcomes: defaultdict[int, list[Outcome]] = defaultdict(list)

    def units(self) -> Iterator[Unit]:
        """Yield what is no trial, then each trial's units as it is asked for, one a seed."""
        units = trained_units(self._config)
        trials = [unit for unit in units if unit.config.training.advantage.name == "rs_grpo"]
        yield from other_units(self._config)
        yield from (unit for unit in units if unit not in trials)
        for number, beta in next_betas(self._study, self._config.study.risk_betas):
            for unit in trials:
                if unit.config.training.risk_beta == beta:
                    self._trial_of[unit.name] = number
                    yield unit
        for unit in trials:  # a trial that is complete may have lost its folders
            if unit.name not in self._trial_of and find(self._root, _run_of(unit).score) is None:
                yield unit

    def take(self, outcome: Outcome) -> None:
        """Tell the study of a trial whose last seed has ended."""
        number = self._trial_of.get(outcome.unit.name)
        if number is None:
            return
        self._outcomes[number].append(outcome)
        if len(self._outcomes[number]) == len(self._config.study.seeds):
            self._tell(number, self._outcomes.pop(number))

    def _tell(self, number: int, outcomes: list[Outcome]) -> None:
        faults = [outcome.fault for outcome in outcomes if outcome.fault]
        if faults:
            tell_failure(self._study, number, faults[0])
        else:
            tell(self._study, number, sorted(self._value(o.unit) for o in outcomes))

    def _value(self, unit: Unit) -> SeedValue:
        score = finished(self._root, _run_of(unit).score)
        rows = json.loads((score / "passk.json").read_text(encoding="utf-8"))
        return seed_value(rows, unit.config.training.seed, unit.config.evaluation.headline_k)
