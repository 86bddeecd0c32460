"""The verb `rsgrpo clean`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rsgrpo.errors import UserError
from rsgrpo.retention import DAY, Leftover, Removal, find_leftovers, remove, total
from rsgrpo.terminal import AsJson, print_rows


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(clean)


def clean(
    root: Annotated[Path, typer.Argument(help="The --out folder of a study.")],
    keep_days: Annotated[
        int, typer.Option(help="Leave alone what has changed within these days.", min=1)
    ] = 30,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed; remove nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove abandoned work: unfinished stages that nobody holds, old logs, marks of the dead.

    Finished stages, spools, studies and databases always stay. Asks before it removes anything.
    """
    found = find_leftovers(root, keep_days)
    if found or as_json:
        print_rows([_row(root.resolve(), leftover) for leftover in found], as_json)
    typer.echo(f"could be removed: {total(found)}", err=as_json)
    if dry_run or not found or not (yes or typer.confirm("Remove this?", err=as_json)):
        return
    outcome = remove(found, keep_days)
    typer.echo(f"removed: {total(outcome.removed)}", err=as_json)
    _tell_rest(outcome)


def _row(root: Path, leftover: Leftover) -> dict[str, Any]:
    return {
        "path": str(leftover.path.relative_to(root)),
        "what": leftover.what,
        "bytes": leftover.bytes,
        "age_days": round(leftover.age / DAY, 1),
        "why": leftover.why,
    }


def _tell_rest(outcome: Removal) -> None:
    for leftover in outcome.in_use:
        typer.echo(f"left alone, it is in use again: {leftover.path}", err=True)
    if outcome.refused:
        reasons = "; ".join(reason for _, reason in outcome.refused)
        raise UserError(
            f"{len(outcome.refused)} could not be removed ({reasons}): change the permissions and "
            "run the same command again"
        )
