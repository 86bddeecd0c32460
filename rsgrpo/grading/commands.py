"""The verb `rsgrpo grade`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rsgrpo.terminal import progress_of


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(grade)


def grade(
    rollouts: Annotated[Path, typer.Argument(help="JSONL or Parquet of completions.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file to write.")],
    extract: Annotated[str, typer.Option(help="boxed: last \\boxed{} only; full: any answer.")] = (
        "boxed"
    ),
    timeout: Annotated[float, typer.Option(help="Seconds for one answer.")] = 5.0,
    workers: Annotated[int, typer.Option(help="Grading processes.")] = 1,
    max_chars: Annotated[
        int, typer.Option(help="A text to be judged that is longer is an error, unchecked.")
    ] = 100_000,
    benchmark: Annotated[
        str | None,
        typer.Option(help="Benchmark of every row; by default its column, or else the file name."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Grade completions with Math-Verify in processes that can be killed.

    Verdicts are shared with other runs: $RSGRPO_CACHE, or ~/.cache/rsgrpo.
    """
    from rsgrpo.config import math_grading
    from rsgrpo.grading.files import grade_file

    grading = math_grading(extract=extract, timeout=timeout, workers=workers, max_chars=max_chars)
    summary = grade_file(rollouts, out, grading, benchmark, progress_of("graded"))._asdict()
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        typer.echo("  ".join(f"{name} {_shown(value)}" for name, value in summary.items()))


def _shown(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
