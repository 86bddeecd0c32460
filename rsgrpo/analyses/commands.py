"""The verbs `rsgrpo analyse ...` and `rsgrpo cases`. Nothing heavy is imported before one runs."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsgrpo.analyses import run_commands
from rsgrpo.errors import UserError
from rsgrpo.terminal import AsCsv, AsJson, print_rows, progress_of

if TYPE_CHECKING:
    from rsgrpo.analyses.answer_classes import Judge

app = typer.Typer(help="Tables that answer one question each.", no_args_is_help=True)
run_commands.register(app)

Seeds = "Graded Parquet file, or a folder with one; several seeds with commas."
Before = Annotated[str, typer.Argument(help=f"First policy. {Seeds}")]
After = Annotated[str, typer.Argument(help=f"Second policy, on the same prompts. {Seeds}")]
Resamples = Annotated[int, typer.Option(help="Bootstrap resamples.", min=100)]
CommonN = Annotated[
    int | None,
    typer.Option("--n", help="Samples of each prompt to compare at; the fewest there are."),
]
Pairs = Annotated[
    int, typer.Option(help="Comparisons of wrong answers for a prompt at most.", min=0)
]
Timeout = Annotated[float, typer.Option(help="Seconds for one comparison.", min=0.1)]
Workers = Annotated[int, typer.Option(help="Processes that compare answers.", min=1)]


def register(root: typer.Typer) -> None:
    """Add `rsgrpo analyse ...` and `rsgrpo cases`."""
    root.add_typer(app, name="analyse")
    root.command()(cases)


@app.command()
def unique(
    graded: Annotated[
        list[Path], typer.Argument(help="Graded Parquet files of the same prompts, or folders.")
    ],
    n: CommonN = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    pairs: Pairs = 200,
    timeout: Timeout = 5.0,
    workers: Workers = 1,
    resamples: Resamples = 2000,
) -> None:
    """Count different answers and different correct solutions per prompt, at one n.

    Solutions are expression trees on the embedded task and MinHash clusters on text; workings are
    operator sequences and sets of equations.
    """
    from rsgrpo.analyses.unique import unique_rows
    from rsgrpo.evaluation.graded import graded_file

    files = [graded_file(place) for place in graded]
    with _math_verify(timeout, workers) as judge:
        rows = unique_rows(
            files, judge, n=n, pairs=pairs, resamples=resamples, progress=progress_of("read")
        )
    _show(rows, as_json, as_csv)


@app.command()
def entropy(
    before: Before,
    after: After,
    n: CommonN = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    pairs: Pairs = 200,
    timeout: Timeout = 5.0,
    workers: Workers = 1,
    resamples: Resamples = 2000,
) -> None:
    """Compare the entropy (nats) of the answers to each prompt, before and after, at one n."""
    from rsgrpo.analyses.entropy import entropy_rows
    from rsgrpo.evaluation.graded import seed_files

    files = seed_files(before), seed_files(after)
    with _math_verify(timeout, workers) as judge:
        rows = entropy_rows(*files, judge, n=n, pairs=pairs, resamples=resamples)
    _show(rows, as_json, as_csv)


@app.command()
def transitions(
    before: Before,
    after: After,
    n: CommonN = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    resamples: Resamples = 2000,
) -> None:
    """Count prompts newly solved and newly lost, both policies at the same n."""
    from rsgrpo.analyses.transitions import transition_table
    from rsgrpo.evaluation.graded import seed_files

    files = seed_files(before), seed_files(after)
    _show(transition_table(*files, n=n, resamples=resamples), as_json, as_csv)


def cases(
    a: Annotated[str, typer.Argument(help=f"The policy that does not solve them. {Seeds}")],
    b: Annotated[str, typer.Argument(help=f"The policy that does. {Seeds}")],
    n: Annotated[int, typer.Option("--n", help="Prompts to show, the clearest first.")] = 10,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Markdown file to write; else it is printed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice among A's completions.")] = 0,
    root: Annotated[
        Path | None,
        typer.Option(help="Study folder that keeps the page, where B is not of a study itself."),
    ] = None,
) -> None:
    """Show prompts that B solves and A does not, side by side, with strategies that A never took.

    The page also becomes an artifact of B's evaluation run where B lies in a study's --out folder;
    `rsgrpo sync` ships it to MLflow.
    """
    from rsgrpo.analyses.case_pages import case_page
    from rsgrpo.analyses.cases import find_cases
    from rsgrpo.analyses.samples import label_of
    from rsgrpo.evaluation.graded import seed_files

    ours, theirs = seed_files(a), seed_files(b)
    if root is not None and not root.is_dir():
        raise UserError(f"--root {root} is not a folder: name the --out folder of a study")
    if out is not None and out.exists() and any(out.samefile(f) for f in (*ours, *theirs)):
        raise UserError(f"{out} is a graded file that is read: name another file to write")
    found = find_cases(ours, theirs, n, seed)
    names = [",".join(map(label_of, files)) for files in (ours, theirs)]
    if not found.shown:
        typer.echo(
            f"nothing to show: {names[1]} solves none of the {found.n_prompts} prompts that "
            f"{names[0]} leaves unsolved"
        )
        return
    page = case_page(found, *names)
    if out is None:
        typer.echo(page, nl=False)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
        typer.echo(f"{out}: {len(found.shown)} of {found.found} prompts")
    _record(page, theirs, names, root)


def _record(page: str, files: list[Path], names: list[str], root: Path | None) -> None:
    from rsgrpo.tracking.journal import attach, begin_note, evaluation_runs

    digest = hashlib.sha256(page.encode()).hexdigest()[:8]
    runs = {run: spool for file in files for run, spool in evaluation_runs(file).items()}
    if not runs and root is not None:
        tags = {"stage": "cases", "a": names[0], "b": names[1]}
        runs = begin_note(root, f"cases-{digest}", f"cases {names[0]} {names[1]}", tags)
    for place in attach(runs, f"cases-{digest}.md", page, "cases"):
        print(f"recorded for MLflow: {place}", file=sys.stderr)


@contextmanager
def _math_verify(timeout: float, workers: int) -> Iterator[Judge]:
    from rsgrpo.analyses.answer_classes import pool_judge
    from rsgrpo.config import math_grading
    from rsgrpo.grading.pool import GradingPool

    grading = math_grading(extract="boxed", timeout=timeout, workers=workers)
    with GradingPool.from_config(grading) as pool:
        yield pool_judge(pool, progress_of("compared answers"))


def _show(rows: list[dict[str, Any]], as_json: bool, as_csv: bool) -> None:
    shown = rows if as_json or as_csv else [_with_intervals(row) for row in rows]
    print_rows(shown, as_json, as_csv)


def _with_intervals(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for people: `x`, `x_low` and `x_high` in one cell."""
    bounds = ("_low", "_high")
    shown = {name: value for name, value in row.items() if not name.endswith(bounds)}
    for name in shown:
        low, high = (row.get(f"{name}{bound}") for bound in bounds)
        if low is not None and high is not None:
            shown[name] = f"{row[name]:.3g} [{low:.3g}, {high:.3g}]"
    return shown
