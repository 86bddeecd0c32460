"""The verbs `rsgrpo sweep run` and `resume`, beside those that look. Nothing heavy is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.flow_commands import Environment, Launcher, Overrides
from sweeps.commands import Format, Quiet, Verbose
from sweeps.commands import app as sweep
from sweeps.commands import trials as print_trials
from sweeps.opening import RootName, Storage, StudyName

if TYPE_CHECKING:
    from rsgrpo.worker import Execution
    from sweeps.run import Result
    from sweeps.study import Opened

AT_ONCE_ON_WORKERS = 100

Workers = Annotated[
    int | None,
    typer.Option(
        help="Units under way at a time; one here, a hundred on workers by default.", min=1
    ),
]
Deployment = Annotated[
    bool, typer.Option("--deployment", help="Have Prefect workers take the units.")
]
FailureRate = Annotated[
    float | None,
    typer.Option(help="Begin no further trial above it; the sweep's by default.", min=0, max=1),
]


def register(app: typer.Typer) -> None:
    """Add the verb `sweep` with all of its own to the command line."""
    app.add_typer(sweep, name="sweep")


@sweep.command()
def run(
    files: Annotated[list[Path], typer.Argument(help="The sweep as YAML; later files win.")],
    set_: Overrides = None,
    workers: Workers = None,
    deployment: Deployment = False,
    study_name: StudyName = None,
    storage: Storage = None,
    root: RootName = None,
    environment: Environment = "default",
    launcher: Launcher = "python",
    max_failure_rate: FailureRate = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run and its cost; do nothing.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a sweep to its end; stopped or killed at any moment, the same command goes on."""
    from flows.sweep_runs import open_or_make, read_plan, sweep_lines
    from sweeps.opening import named_root, named_storage

    plan = read_plan(files, set_ or ())
    if dry_run:
        typer.echo("\n".join(sweep_lines(plan)))
        return
    execution = _execution(root, environment, launcher, workers, deployment)
    place = named_storage(storage, root)
    opened = open_or_make(plan, place, study_name or plan.config.name, named_root(root))
    _run(opened, execution, place, max_failure_rate, quiet, verbose)


@sweep.command()
def resume(
    study_name: StudyName = None,
    storage: Storage = None,
    root: RootName = None,
    unfinished: Annotated[
        bool,
        typer.Option("--unfinished", help="Go on with what is not finished, as without options."),
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Try the trials that failed once more.")
    ] = False,
    extend: Annotated[int | None, typer.Option(help="Have so many further trials.", min=1)] = None,
    workers: Workers = None,
    deployment: Deployment = False,
    environment: Environment = "default",
    launcher: Launcher = "python",
    max_failure_rate: FailureRate = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Go on with a study that was stopped, killed or is to be longer; its storage says the rest."""
    from flows.sweep_runs import place_of
    from sweeps.opening import named_storage, open_study
    from sweeps.study import extend as make_longer
    from sweeps.study import retry_failed

    opened = open_study(study_name, storage, root)
    execution = _execution(root, environment, launcher, workers, deployment)
    place_of(opened, execution)
    say = _sayer(quiet)
    if extend:  # first, for it may be refused
        say(f"study {opened.name} shall have {make_longer(opened, extend)} trials")
    if failed:
        again = ", ".join(map(str, retry_failed(opened)))
        say(f"failed trials that are tried again: {again or 'none'}")
    _run(opened, execution, named_storage(storage, root), max_failure_rate, quiet, verbose)


def _run(
    opened: Opened,
    execution: Execution,
    storage: str,
    max_failure_rate: float | None,
    quiet: bool,
    verbose: bool,
) -> None:
    from flows.sweep_runs import run_opened

    if not opened.plan.config.policy.checkpoint:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if execution.units == "deployments":
        from flows.flow_commands import need_prefect

        need_prefect()
    result = run_opened(opened, execution, _sayer(quiet), max_failure_rate)
    print_trials(opened.name, storage, None, None, Format.TABLE, True, verbose)
    _say_where(opened, storage, quiet)
    _end(opened, result)


def _end(opened: Opened, result: Result) -> None:
    """End the command as the sweep has ended.

    Raises:
        KeyboardInterrupt: It was interrupted.
        UserError: It was stopped, or too many trials have failed.
    """
    from rsgrpo.errors import UserError

    if result.ending == "interrupted":
        raise KeyboardInterrupt
    resume_it = f"`rsgrpo sweep resume --study-name {opened.name}"
    if result.ending == "failures":
        raise UserError(f"{result.reason}; mend that, then {resume_it} --failed`")
    if result.ending != "complete":
        raise UserError(f"the sweep has stopped ({result.reason}): {resume_it}` goes on from here")


def _say_where(opened: Opened, storage: str, quiet: bool) -> None:
    from sweeps.storage import shown

    say = _sayer(quiet)
    say(f"study    {opened.name} in {shown(storage)}")
    say(f"results  {opened.root}")
    say(f"next     rsgrpo sweep best --study-name {opened.name}")


def _execution(
    root: str | None, environment: str, launcher: str, workers: int | None, deployment: bool
) -> Execution:
    from flows.flow_commands import execution_of

    at_once = workers or (AT_ONCE_ON_WORKERS if deployment else 1)
    return execution_of(root or "default", environment, launcher, at_once, deployment)


def _sayer(quiet: bool) -> Callable[[str], None]:
    return _silent if quiet else _say


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    pass
