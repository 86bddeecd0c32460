"""The verb `rsgrpo report`. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb `report` to the command line."""
    app.command("report")(write)


def write(
    analysis: Annotated[Path, typer.Argument(help="Folder that holds tables.json.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")] = Path(
        "report.html"
    ),
    bandit: Annotated[
        Path | None, typer.Option(help="Rows of `rsgrpo bandit --json`, shown as a section.")
    ] = None,
) -> None:
    """Write the offline report of an analysed study: one HTML file, no network."""
    from dashboards.report import read_analysis, read_bandit, write_report

    tables, summary = read_analysis(analysis)
    if bandit:
        tables = {**tables, "bandit": read_bandit(bandit)}
    typer.echo(write_report(tables, out, summary=summary))
