"""Flow: a sweep over beta as an Optuna study; its units are the (trial, seed) pairs."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.logging import get_run_logger

from flows.deployed_units import DeployedRunner
from flows.study_orders import run_in_prefect
from flows.task_units import TaskRunner
from flows.units import base_unit, beside, finish_units, other_units, trained_units
from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.stages import find, folder_of
from rsgrpo.study import base_policy, base_run, named_run, trained_run
from rsgrpo.worker import Execution, resolve
from sweeps.beta_study import beta_sweep_of, study_name
from sweeps.run import Result, run_sweep
from sweeps.storage import default_storage
from sweeps.study import Opened, counted, create, retry_failed
from sweeps.units import Runner

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
    units = trained_units(config)
    others = [unit for unit in units if unit.config.training.advantage.name != "rs_grpo"]
    with beside([*other_units(config), *others], execution):
        if config.study.risk_betas:
            sweep_betas(config, execution, root)
    # a trial that was complete may have lost its folders
    lost = [u for u in units if find(root, named_run(u.config, u.policy).score) is None]
    finish_units(lost, execution)


def sweep_betas(config: Config, execution: Execution, root: Path) -> None:
    """Finish the trials of the study that a config's betas and seeds make.

    Raises:
        UserError: Some failed, or the sweep was stopped.
    """
    name = study_name(config, made_of(config, root))
    opened = create(beta_sweep_of(config), default_storage(root), name, root)
    retry_failed(opened)
    refuse_unfinished(opened, run_sweep(opened, runner_of(execution, opened), say=say))


def runner_of(execution: Execution, opened: Opened) -> Runner:
    """Return what runs the units: workers, or tasks of this process."""
    if execution.units == "deployments":
        return DeployedRunner(execution, opened.ledger, say)
    return TaskRunner(execution, opened.ledger)


def refuse_unfinished(opened: Opened, result: Result) -> None:
    """Raise what a sweep that is not complete ended with.

    Raises:
        KeyboardInterrupt: It was interrupted.
        UserError: It was stopped, or trials failed.
    """
    if result.ending == "interrupted":
        raise KeyboardInterrupt
    trials = counted(opened.study.get_trials(deepcopy=False))
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    if failed:
        numbers = ", ".join(str(trial.number) for trial in failed)
        raise UserError(
            f"{len(failed)} trials failed ({numbers}), the first because: "
            f"{failed[0].user_attrs.get('end_reason')}; run the same command again, what is "
            "finished is kept"
        )
    if result.ending != "complete":
        raise UserError(f"the sweep was stopped ({result.reason}): run the same command again")


def made_of(config: Config, root: Path) -> str:
    """Return what all trials share beside the config: the keys of data, base, code and packages."""
    base = base_policy(config)
    shared = (trained_run(config, base).training, base_run(config, base).score)
    return " ".join(str(node and folder_of(root, node)).rpartition("-")[2] for node in shared)


def say(line: str) -> None:
    """Log a line of the sweep in Prefect."""
    get_run_logger().info("%s", line)
