"""The verb `rsgrpo runs`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsgrpo.errors import UserError
from rsgrpo.terminal import AsCsv, AsJson, print_rows
from rsgrpo.tracking.progress import IDENTITY_NAME

if TYPE_CHECKING:
    from rsgrpo.tracking.reader import StoredRun


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(runs)


def runs(
    root: Annotated[
        Path | None,
        typer.Argument(help="Output folder: only what was shipped from it; runs by default."),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_TRACKING_URI",
            help="MLflow server or database; ROOT/mlflow.db by default.",
        ),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Only the runs of this study.")] = None,
    points: Annotated[
        Path | None, typer.Option(help="Write every number of these runs to this Parquet file.")
    ] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Print the runs that MLflow holds, the newest first; --points writes all their numbers.

    The numbers of ended runs are cached: $RSGRPO_CACHE, or ~/.cache/rsgrpo.
    """
    from rsgrpo.tracking.reader import list_runs, read_runs

    if points and not points.absolute().parent.is_dir():
        raise UserError(f"the folder of --points {points} does not exist: make it first")
    uri = _store(root, tracking_uri)
    found = list_runs(uri, study, _identity(root) if root else None)
    print_rows([_row(run, as_json) for run in found], as_json, as_csv)
    if points:
        table = read_runs(uri, found)
        _write(table, points)
        typer.echo(f"{table.num_rows} numbers of {len(found)} runs: {points}", err=True)


def _store(root: Path | None, tracking_uri: str | None) -> str:
    if tracking_uri:
        return tracking_uri
    folder = root or Path("runs")
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the output folder of a study")
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def _identity(root: Path) -> str:
    """Return the identity under which a folder was shipped."""
    file = root / IDENTITY_NAME
    if not file.is_file():
        raise UserError(f"nothing of {root} was shipped to MLflow yet: run `rsgrpo sync {root}`")
    return file.read_text(encoding="utf-8").strip()


def _row(run: StoredRun, whole: bool) -> dict[str, Any]:
    row = {
        "run": run.name,
        "study": run.study,
        "stage": run.tags.get("stage", ""),
        "status": run.status,
        "began": datetime.fromtimestamp(run.began / 1000, UTC).isoformat(timespec="seconds"),
        "minutes": (run.ended - run.began) / 60_000 if run.ended else None,
        "run_id": run.run_id,
    }
    if not whole:
        return row
    known = {"lasting_id": run.run, "parent": run.parent, "params": dict(run.params)}
    return {**row, **known, "tags": dict(run.tags), "metrics": _finite(run.metrics)}


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _write(table: Any, path: Path) -> None:
    from pyarrow import parquet

    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        parquet.write_table(table, aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
