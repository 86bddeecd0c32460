"""The verbs of `rsgrpo sweep` that look at a study, make one or take it away."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsgrpo.errors import UserError
from sweeps.opening import (
    RootName,
    Storage,
    StudyName,
    first_difference,
    named_root,
    named_storage,
    open_study,
    study_names,
)

if TYPE_CHECKING:
    from sweeps.ledger import Held, Ledger
    from sweeps.space import Sweep
    from sweeps.study import Opened

STOP_WAIT_SECONDS = 15.0

app = typer.Typer(
    name="sweep",
    help="Sweeps: studies that can be stopped, killed, resumed, extended and audited.",
    no_args_is_help=True,
)


class Format(StrEnum):
    """How rows are printed."""

    JSON = "json"
    TABLE = "table"
    YAML = "yaml"


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="json, table or yaml.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results alone.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more.")]


@app.command()
def create(
    files: Annotated[list[Path], typer.Argument(help="The sweep as YAML; later files win.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override: sweep.trials=20 (repeatable).")
    ] = None,
    study_name: StudyName = None,
    storage: Storage = None,
    root: RootName = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a study from a sweep's file, checked whole; prints its name. Nothing is run."""
    from sweeps.metrics import check_metrics
    from sweeps.space import check_space, load_sweep
    from sweeps.storage import shown
    from sweeps.study import create as make
    from sweeps.study import target

    plan = load_sweep(files, set_ or ())
    check_space(plan)
    check_metrics(plan.sweep, plan.config)
    name, place = study_name or plan.config.name, named_storage(storage, root)
    there = name in study_names(place)
    if there:
        refuse_other(name, place, plan)
    opened = make(plan, place, name, named_root(root))
    typer.echo(opened.name)
    made = "is there already, with the same settings" if there else "was made"
    _note(f"it {made}: {target(opened)} trials, storage {shown(place)}", quiet)
    _note(f"results in {opened.root}", not verbose)


@app.command()
def status(
    study_name: StudyName = None,
    storage: Storage = None,
    root: RootName = None,
    format_: FormatOption = Format.TABLE,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show progress, rate, time left, cost so far, and who works on it."""
    from sweeps.listings import shown_text
    from sweeps.status import read_status, status_lines

    opened = open_study(study_name, storage, root)
    found = read_status(opened)
    rows = [worker._asdict() for worker in found.workers]
    _say_where(opened, not verbose)
    if format_ is not Format.TABLE:
        _print({**found._asdict(), "workers": rows}, format_)
        return
    for line in status_lines(found):
        typer.echo(shown_text(line))
    if rows and not quiet:
        typer.echo("")
        _print_table(rows)


@app.command()
def trials(
    study_name: StudyName = None,
    storage: Storage = None,
    root: RootName = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="complete, running, waiting, failed or pruned (repeatable)."),
    ] = None,
    format_: FormatOption = Format.TABLE,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List the trials: state, parameters, values, cost, why they ended."""
    from sweeps.listings import chosen_trials, flat_rows, full_row, trial_row

    opened = open_study(study_name, storage, root)
    chosen = chosen_trials(opened, state or ())
    rows = [(full_row if verbose else trial_row)(opened, trial) for trial in chosen]
    if format_ is Format.TABLE:
        _print_table(flat_rows(rows, short_names=True))
    else:
        _print(rows, format_)
    _note(f"{len(rows)} trials of study {opened.name}", quiet)


@app.command()
def best(
    study_name: StudyName = None,
    storage: Storage = None,
    root: RootName = None,
    format_: FormatOption = Format.TABLE,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show the best trial (or Pareto front) and which others cannot be told apart from it."""
    from sweeps.best import find_best
    from sweeps.listings import decoded_params

    opened = open_study(study_name, storage, root)
    all_trials = opened.study.get_trials(deepcopy=False)
    found = find_best(all_trials, opened.plan, opened.root)
    params = {str(n): decoded_params(opened, all_trials[n]) for n in found.trials}
    values = [_without_nan(value._asdict()) for value in found.values]
    compared = [_without_nan(one._asdict()) for one in found.comparisons]
    _say_where(opened, not verbose)
    if format_ is not Format.TABLE:
        tree = {"trials": found.trials, "params": params, "values": values}
        tree |= {"comparisons": compared, "sentences": found.sentences}
        _print({**tree, "warnings": found.warnings}, format_)
        return
    for sentence in found.sentences:
        typer.echo(sentence)
    for number, point in params.items():
        typer.echo(f"trial {number}: {_point_text(point)}")
    for rows in (values, compared):
        if rows and not quiet:
            typer.echo("")
            _print_table(rows)
    for warning in found.warnings:
        _note(f"warning: {warning}", quiet)


@app.command()
def importance(
    study_name: StudyName = None,
    storage: Storage = None,
    root: RootName = None,
    format_: FormatOption = Format.TABLE,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show how much each varied key matters for each objective (PED-ANOVA)."""
    from sweeps.importances import importances

    opened = open_study(study_name, storage, root)
    rows = [_without_nan(row._asdict()) for row in importances(opened)]
    _say_where(opened, not verbose)
    if format_ is Format.TABLE:
        _print_table(rows)
    else:
        _print(rows, format_)
    _note(f"from {rows[0]['n_trials']} complete trials; few trials say little", quiet)
    for metric in dict.fromkeys(row["metric"] for row in rows if row["importance"] is None):
        _note(f"warning: {metric} is the same in all of them, so no key matters for it", quiet)


@app.command()
def export(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A file ending in .csv, .json or .parquet.")
    ],
    study_name: StudyName = None,
    storage: Storage = None,
    root: RootName = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write all that is known of the trials to a file, the metrics of every seed among it."""
    from sweeps.listings import chosen_trials, full_row, write_rows

    opened = open_study(study_name, storage, root)
    rows = [full_row(opened, trial) for trial in chosen_trials(opened)]
    write_rows(rows, output)
    _say_where(opened, not verbose)
    _note(f"{len(rows)} trials of study {opened.name} written to {output}", quiet)


@app.command()
def stop(
    study_name: StudyName = None,
    storage: Storage = None,
    root: RootName = None,
    reason: Annotated[str, typer.Option(help="Why, for those who look later.")] = "sweep stop",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Have all who work on a study save a checkpoint and end; resume goes on from there."""
    opened = open_study(study_name, storage, root)
    _say_where(opened, not verbose)
    working = _alive(opened.ledger)
    if not working:
        typer.echo(f"nobody works on study {opened.name}: there is nothing to stop")
        return
    opened.ledger.ask_stop(reason)
    _note(f"asked {len(working)} holders of leases to stop", quiet)
    left = _wait_until_gone(opened.ledger, STOP_WAIT_SECONDS)
    if left:
        who = ", ".join(f"{one.name} ({one.host}:{one.pid})" for one in left)
        raise UserError(
            f"after {STOP_WAIT_SECONDS:.0f} s still at work: {who}; the request stands, look again "
            "with `rsgrpo sweep status`"
        )
    typer.echo(f"study {opened.name} has stopped: `rsgrpo sweep resume` goes on from here")


@app.command()
def delete(
    study_name: StudyName = None,
    storage: Storage = None,
    root: RootName = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Take a study and its ledger away; what its trials have made stays in the output root."""
    import optuna

    opened = open_study(study_name, storage, root)
    _say_where(opened, not verbose)
    number = len(opened.study.get_trials(deepcopy=False))
    if not yes:
        typer.confirm(f"delete study {opened.name} with {number} trials?", abort=True, err=True)
    with opened.ledger.alone():
        if working := _alive(opened.ledger):
            raise UserError(
                f"study {opened.name} is being worked on ({working[0].name} on {working[0].host}): "
                "stop it first with `rsgrpo sweep stop`"
            )
        optuna.delete_study(study_name=opened.name, storage=opened.study._storage)
        shutil.rmtree(opened.ledger.folder, ignore_errors=True)
    typer.echo(f"deleted study {opened.name} with {number} trials")
    _note(f"checkpoints, samples and scores stay in {opened.root}", quiet)


def refuse_other(name: str, storage: str, plan: Sweep) -> None:
    """Refuse a sweep whose name is taken by a study with other settings.

    Raises:
        UserError: The first key that differs, with both values.
    """
    import optuna

    from sweeps.storage import open_storage

    there = optuna.load_study(study_name=name, storage=open_storage(storage))
    if difference := first_difference(there.user_attrs, plan):
        raise UserError(
            f"study {name} is there with other settings ({difference}): choose another "
            "--study-name, or take it away with `rsgrpo sweep delete`"
        )


def _alive(ledger: Ledger) -> list[Held]:
    return [one for one in ledger.held() if one.alive]


def _wait_until_gone(ledger: Ledger, seconds: float) -> list[Held]:
    end = time.monotonic() + seconds
    while (left := _alive(ledger)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _say_where(opened: Opened, silent: bool) -> None:
    _note(f"study {opened.name}, results in {opened.root}", silent)


def _note(text: str, silent: bool) -> None:
    if not silent:
        print(text, file=sys.stderr, flush=True)


def _print(tree: Any, format_: Format) -> None:
    if format_ is Format.JSON:
        typer.echo(json.dumps(tree, indent=1))
        return
    import yaml

    typer.echo(yaml.safe_dump(tree, sort_keys=False, allow_unicode=False).rstrip("\n"))


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    from rsgrpo.tabular import table
    from sweeps.listings import shown_text

    width = get_terminal_size().columns if sys.stdout.isatty() else None
    shown = [{name: shown_text(value) for name, value in row.items()} for row in rows]
    typer.echo(table(shown, width))


def _point_text(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in point.items())


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in row.items()}
