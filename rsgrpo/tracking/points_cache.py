"""Numbers of ended runs, kept below the user's cache folder as one Parquet file for each.

A file is named by the run's id and by when it ended: a run that goes on and ends again is read
anew. It is written aside and renamed into place, so that processes which read at the same time see
a whole file or none, and one that is damaged is fetched again. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# The variable of the verdicts' cache: one folder for all that may be deleted.
FOLDER_VARIABLE = "RSGRPO_CACHE"
COLUMNS = ("step", "metric", "value", "time")


def cached_points(run_id: str, ended: int, fetch: Callable[[Path], None]) -> Any:
    """Return the numbers of an ended run, from the cache or fetched into it.

    Args:
        run_id: MLflow's id of the run.
        ended: When it ended, in milliseconds since 1970.
        fetch: Writes the run's Parquet file to a path; asked only where the cache has none.

    Returns:
        A `pyarrow.Table` with the columns step, metric, value and time; None where what was
        fetched is no such table.

    Raises:
        OSError: The cache folder may not be written or its disk is full; `filename` is set.
    """
    place = points_folder() / f"{_file_name(run_id)}-{ended}.parquet"
    known = read_points(place)
    if known is not None:
        return known
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        fetch(aside)
        fresh = read_points(aside)
        if fresh is not None:
            aside.replace(place)
            _forget_earlier(place, run_id)
        return fresh
    finally:
        aside.unlink(missing_ok=True)


def read_points(path: Path) -> Any:
    """Return the table of a Parquet file of points; None where there is none or it is damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path).read()
    except (FileNotFoundError, pa.ArrowException, OSError):
        return None
    return table.select(COLUMNS) if set(COLUMNS) <= set(table.column_names) else None


def points_folder() -> Path:
    """Return the folder of cached numbers: `$RSGRPO_CACHE/runs`, or below `~/.cache/rsgrpo`."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return (Path(folder) if folder else Path.home() / ".cache" / "rsgrpo") / "runs"


def _file_name(run_id: str) -> str:
    # An id comes from a server: only one that is a plain word may become part of a path as it is.
    plain = run_id.isalnum() and run_id.isascii()
    return run_id if plain else hashlib.sha256(run_id.encode()).hexdigest()[:32]


def _forget_earlier(place: Path, run_id: str) -> None:
    for file in place.parent.glob(f"{_file_name(run_id)}-*.parquet"):
        if file != place:
            with suppress(FileNotFoundError):
                file.unlink()
