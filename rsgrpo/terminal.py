"""What the verbs of the command line share: options, tables, progress."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any

import typer

ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", help="Study as a YAML file (repeatable: later files win)."),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override: training.risk_beta=4 (repeatable).")
]
Root = Annotated[Path, typer.Option("--out", help="Folder of all results; reused and resumed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print rows as JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print rows as CSV.")]


def print_rows(
    rows: list[dict[str, Any]], as_json: bool, as_csv: bool = False, once: Sequence[str] = ()
) -> None:
    """Print rows as a table or CSV, each of their warnings once on stderr; or as JSON.

    Args:
        rows: Mappings with the same keys, and perhaps `warnings`.
        as_json: Print JSON.
        as_csv: Print CSV.
        once: Columns that are the same in all rows: a table has them on a line above it.
    """
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    from rsgrpo.tabular import comma_separated, table

    warnings = [warning for row in rows for warning in row.pop("warnings", [])]
    if as_csv:
        typer.echo(comma_separated(rows))
    else:
        if rows and once:
            said = [f"{name} {rows[0][name]}" for name in once if rows[0][name] is not None]
            typer.echo(", ".join(said) + "\n")
            rows = [{n: v for n, v in row.items() if n not in once} for row in rows]
        typer.echo(table(rows, get_terminal_size().columns if sys.stdout.isatty() else None))
    for warning in dict.fromkeys(warnings):
        print(f"warning: {warning}", file=sys.stderr)


def progress_of(what: str) -> Callable[[int, int], None]:
    """Return a reporter that rewrites one line on a terminal and is silent elsewhere."""

    def report(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{what} {done} of {total}", end=end, file=sys.stderr, flush=True)

    return report


def use_one_thread() -> None:
    """Keep torch on one thread: for tensors as small as these more of them only wait."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
