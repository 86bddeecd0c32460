"""A sweep from its plan to its last trial: run here or by workers, recorded, shipped to MLflow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flows.run_study import tracked
from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.estimates import total
from rsgrpo.plan import plan as plan_of
from rsgrpo.stages import find
from rsgrpo.study import prepared, run_identity
from rsgrpo.tracking.journal import begin_study, record_dataset
from rsgrpo.tracking.spool import SPOOL_NAME, Spool
from rsgrpo.worker import Execution, Place, resolve
from sweeps.commands import refuse_other
from sweeps.config import Parameter
from sweeps.local_units import LocalRunner
from sweeps.metrics import check_metrics
from sweeps.opening import study_names
from sweeps.run import Result, run_sweep
from sweeps.space import Sweep, check_space, grid_points, load_sweep, trial_config
from sweeps.status import read_status, status_lines
from sweeps.study import Opened, create
from sweeps.units import Runner

STATUS_SECONDS = 30.0

Say = Callable[[str], None]


def read_plan(files: Sequence[Path], overrides: Sequence[str]) -> Sweep:
    """Read a sweep's files and check it whole, before anything is made.

    Raises:
        UserError: Something in it cannot be run.
    """
    plan = load_sweep(files, overrides)
    check_space(plan)
    check_metrics(plan.sweep, plan.config)
    return plan


def open_or_make(plan: Sweep, storage: str, name: str, root: Path) -> Opened:
    """Open the study of a plan, making it where there is none.

    Args:
        plan: The sweep.
        storage: As for `open_storage`.
        name: The study's name.
        root: The output root.

    Raises:
        UserError: A study of that name has other settings; the sentence names the first key.
    """
    if name in study_names(storage):
        refuse_other(name, storage, plan)
    return create(plan, storage, name, root)


def run_opened(
    opened: Opened, execution: Execution, say: Say, max_failure_rate: float | None = None
) -> Result:
    """Run what is left of a study; the same call again goes on from there.

    Args:
        opened: The study.
        execution: Where and how, how many units at a time, and whether workers take them.
        say: Takes each line for the user.
        max_failure_rate: In place of the sweep's own, for this call.

    Raises:
        UserError: The data or the base policy cannot be made, there is no such deployment, or the
            study's results lie in another root.
    """
    opened, place = _as_run(opened, max_failure_rate), place_of(opened, execution)
    runner = _runner(opened, execution, place, say)
    root, config = opened.root, opened.plan.config
    begin_study(root, config, None)
    with tracked(root, place.tracking_uri):
        with _status(opened, say):
            result = run_sweep(opened, runner, say=say)
        _record_end(opened, result)
    return result


def place_of(opened: Opened, execution: Execution) -> Place:
    """Return where a study is run.

    Raises:
        UserError: The root that the execution names is not the study's.
    """
    place = resolve(execution)
    if place.root.resolve() != opened.root.resolve():
        raise UserError(
            f"the results of study {opened.name} lie in {opened.root}, and the root "
            f"{execution.root!r} is {place.root}: name the study's with --root"
        )
    return place


def sweep_lines(plan: Sweep) -> list[str]:
    """Return what a sweep would do as lines of text: its trials and runs, its space, its cost.

    Raises:
        UserError: As for `rsgrpo.plan.plan`.
    """
    sweep = plan.sweep
    points = len(grid_points(sweep)) if sweep.sampler.name == "grid" else None
    trials = sweep.trials or points or 0
    of = "" if points is None else f" of {points} points"
    runs = trials * len(sweep.seeds)
    sought = ", ".join(f"{one.direction} {one.metric}" for one in sweep.objectives)
    return [
        f"sweep       {trials} trials{of} by {sweep.sampler.name} x {len(sweep.seeds)} seeds = "
        f"{runs} runs",
        f"objectives  {sought}",
        *(f"space       {key}: {_range(one)}" for key, one in sweep.space.items()),
        _cost_line(trial_config(plan.config, {}, sweep.seeds[0]), runs),
    ]


def _range(one: Parameter) -> str:
    if one.values:
        text = ", ".join(str(value) for value in one.values)
    else:
        step = "" if one.step is None else f" by {one.step:g}"
        text = f"{one.low:g} to {one.high:g}{step}{', log' if one.log else ''}"
    when = " and ".join(f"{key} is {value}" for key, value in one.when.items())
    return f"{text}, where {when}" if when else text


def _cost_line(config: Config, runs: int) -> str:
    """Return the cost of one run as the config says without the space, times the runs."""
    alone = type(config.study)(grpo=False, risk_betas=(0.0,), seeds=(0,))
    hours = total(plan_of(config.model_copy(update={"study": alone})).hours)
    if hours is None:
        return f"hours       unknown for {runs} runs: see `rsgrpo train --dry-run`"
    return (
        f"hours       about {runs * hours:.4g} of one device = {runs} runs x {hours:.4g}, each as "
        f"{run_identity(config)['policy']} of the config without its space, evaluated with the base"
    )


def _as_run(opened: Opened, max_failure_rate: float | None) -> Opened:
    """Have what is run and recorded bear the study's name."""
    config, sweep = opened.plan
    if max_failure_rate is not None:
        sweep = sweep.model_copy(update={"max_failure_rate": max_failure_rate})
    named = config.model_copy(update={"name": opened.name})
    return opened._replace(plan=Sweep(named, sweep))


def _runner(opened: Opened, execution: Execution, place: Place, say: Say) -> Runner:
    if execution.units == "here":
        return LocalRunner(place.root, opened.ledger, execution.at_once, place.launch)
    from flows.deployed_units import DeployedRunner

    return DeployedRunner(execution, opened.ledger, say)


def _record_end(opened: Opened, result: Result) -> None:
    config = opened.plan.config
    with Spool(opened.root / SPOOL_NAME, config.name) as spool:
        if dataset := find(opened.root, prepared(config)):
            record_dataset(spool, dataset)
        spool.end("FINISHED" if result.ending == "complete" else "KILLED")


@contextmanager
def _status(opened: Opened, say: Say) -> Iterator[None]:
    """Say twice a minute how far the study is while the body runs."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(STATUS_SECONDS):
            try:
                lines = status_lines(read_status(opened))
            except Exception as fault:  # a storage that is away; the coordinator says so itself
                lines = [f"status unknown ({type(fault).__name__})"]
            say("; ".join(lines[:2]))

    thread = threading.Thread(target=tell, name="status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)
