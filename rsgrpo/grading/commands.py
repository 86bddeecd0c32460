"""The verb `rsgrpo grade`. Nothing heavy is imported before it runs."""

from __future__ import annotations

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
) -> None:
    """Grade completions with Math-Verify in processes that can be killed."""
    from rsgrpo.config import math_grading
    from rsgrpo.grading.files import grade_file

    grading = math_grading(extract=extract, timeout=timeout, workers=workers)
    summary = grade_file(rollouts, out, grading, progress=progress_of("graded"))
    typer.echo("  ".join(f"{name} {value:.6g}" for name, value in summary._asdict().items()))
