"""Reads runs back from MLflow: all of a store in one search, and every number of many runs.

A run that has ended left its numbers in one Parquet file; that file is read where it lies when the
store keeps it in a folder of this machine, and otherwise downloaded, several at a time, and cached.
A run that is still at work has its numbers in the metric history alone, which is asked for one
metric and many runs at a time.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rsgrpo.errors import UserError
from rsgrpo.tracking.history import metric_histories
from rsgrpo.tracking.points_cache import cached_points, read_points
from rsgrpo.tracking.store import EXPERIMENT, ROOT_TAG, RUN_ID_TAG, STUDY_TAG, quiet_mlflow
from rsgrpo.tracking.texts import metric_key

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

POINTS_NAME = "metrics.parquet"
ENDED = ("FINISHED", "FAILED", "KILLED")
# The most runs that a server hands out at once.
RUNS_PER_PAGE = 50_000
DOWNLOADS_AT_ONCE = 8


class StoredRun(NamedTuple):
    """One run as MLflow knows it.

    `run_id` is MLflow's id, `run` the lasting id under which it was recorded ("" for a run that
    another program logged), `parent` MLflow's id of the run above; `began` and `ended` are in
    milliseconds since 1970, `ended` None while it runs. `metrics` holds the last value of each.
    """

    run_id: str
    run: str
    name: str
    study: str
    status: str
    parent: str | None
    began: int
    ended: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    artifacts: str


def list_runs(uri: str, study: str | None = None, root_id: str | None = None) -> list[StoredRun]:
    """Return the runs of a store, the newest first, by one search.

    Args:
        uri: MLflow server or database.
        study: Only the runs of this study.
        root_id: Only what was shipped from the folder of this identity.

    Raises:
        UserError: The store cannot be read, or holds nothing of ours.
    """
    if study and any(sign in study for sign in "'\"`\\"):
        raise UserError(f"study {study!r} has quotes or backslashes: no study is named so")
    with quiet_mlflow(), _explained(uri):
        client = _client(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            raise UserError(
                f"MLflow at {uri} has no experiment {EXPERIMENT}: ship a study there with "
                "`rsgrpo sync`"
            )
        tags = {STUDY_TAG: study, ROOT_TAG: root_id}
        wanted = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items() if value)
        return [_stored(run) for run in _pages(client, experiment.experiment_id, wanted)]


def read_runs(uri: str, runs: Sequence[StoredRun]) -> Any:
    """Return every number of many runs.

    Args:
        uri: The store that listed them.
        runs: The runs, each once.

    Returns:
        A `pyarrow.Table` with the columns run_id (MLflow's), step, metric (MLflow's name), value
        and time (milliseconds since 1970); the runs in the order given.

    Raises:
        UserError: The store cannot be read.
        OSError: The cache folder may not be written or its disk is full; `filename` is set.
    """
    with quiet_mlflow(), _explained(uri):
        tables = _from_files(uri, [run for run in runs if run.status in ENDED and run.ended])
        rest = {run.run_id: tuple(run.metrics) for run in runs if run.run_id not in tables}
        tables |= metric_histories(_client(uri), uri, rest)
    return _joined([(run.run_id, tables[run.run_id]) for run in runs])


def _client(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    database = uri.removeprefix("sqlite:///").partition("?")[0]
    if uri.startswith("sqlite:///") and not Path(database).is_file():
        # MLflow would make an empty one.
        raise UserError(f"there is no MLflow database {database}: ship a study with `rsgrpo sync`")
    return MlflowClient(tracking_uri=uri)


def _pages(client: MlflowClient, experiment: str, wanted: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment], wanted, max_results=RUNS_PER_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _stored(run: Run) -> StoredRun:
    tags = run.data.tags
    return StoredRun(
        run_id=run.info.run_id,
        run=tags.get(RUN_ID_TAG, ""),
        name=run.info.run_name,
        study=tags.get(STUDY_TAG, ""),
        status=run.info.status,
        parent=tags.get("mlflow.parentRunId"),
        began=run.info.start_time,
        ended=run.info.end_time,
        params=run.data.params,
        tags=tags,
        metrics=run.data.metrics,
        artifacts=run.info.artifact_uri,
    )


def _from_files(uri: str, runs: Sequence[StoredRun]) -> dict[str, Any]:
    """Return the tables of the runs that left one."""
    folders: dict[str, Any] = {}
    for run in runs:
        folders.setdefault(_above(run), None)
    sources = {above: _source(uri, above) for above in folders}
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        tables = pool.map(lambda run: _table_of(run, sources[_above(run)]), runs)
        found = {run.run_id: table for run, table in zip(runs, tables, strict=True)}
    return {run_id: table for run_id, table in found.items() if table is not None}


def _above(run: StoredRun) -> str:
    """Return the place of all runs' artifacts: one connection to it serves every run."""
    return posixpath.dirname(posixpath.dirname(run.artifacts.rstrip("/")))


def _source(uri: str, above: str) -> Any:
    """Return the folder of this machine that holds the runs' artifacts, or MLflow's door to it."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.file_utils import local_file_uri_to_path

    if above.startswith("file:") or above.startswith("/"):
        return Path(local_file_uri_to_path(above))
    return get_artifact_repository(above, tracking_uri=uri)


def _table_of(run: StoredRun, source: Any) -> Any:
    """Return the numbers that an ended run left in a file, None where it left none."""
    name = f"{run.artifacts.rstrip('/').removeprefix(_above(run) + '/')}/{POINTS_NAME}"
    if isinstance(source, Path):
        return read_points(source / name)
    assert run.ended is not None
    try:
        # the public call lists the folder first, which doubles the requests
        return cached_points(run.run_id, run.ended, lambda to: source._download_file(name, str(to)))
    except Exception as fault:
        if _says_missing(fault):
            return None
        raise


def _says_missing(fault: Exception) -> bool:
    response = getattr(fault, "response", None)
    missing = isinstance(fault, FileNotFoundError)
    absent = getattr(fault, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
    return missing or absent or getattr(response, "status_code", 0) == 404


def _joined(tables: Sequence[tuple[str, Any]]) -> Any:
    import pyarrow as pa

    types = [("step", pa.int64()), ("metric", pa.string())]
    types += [("value", pa.float64()), ("time", pa.int64())]
    schema = pa.schema([("run_id", pa.string()), *types])
    parts = [
        pa.table(
            [pa.repeat(pa.scalar(run_id), table.num_rows), *_columns(table, pa.schema(types))],
            schema=schema,
        )
        for run_id, table in tables
    ]
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _columns(table: Any, schema: Any) -> list[Any]:
    """Return a run's columns, its metrics under the names that MLflow has for them."""
    import pyarrow as pa

    table = table.cast(schema)
    names = table.column("metric").unique().to_pylist()
    if any(metric_key(name) != name for name in names):
        renamed = pa.array([metric_key(name) for name in table.column("metric").to_pylist()])
        table = table.set_column(1, "metric", renamed)
    return [table.column(name) for name in schema.names]


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn a fault of MLflow, its server or its database into one sentence."""
    from mlflow.exceptions import MlflowException, RestException
    from requests import HTTPError, RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as fault:
        if uri.startswith("http") and not isinstance(fault, (RestException, HTTPError)):
            raise UserError(
                f"the MLflow server at {uri} does not answer: start it or name another store"
            ) from fault
        reason = str(fault).strip().splitlines()[0][:200].rstrip(".")
        raise UserError(f"MLflow at {uri} cannot be read ({reason}): mend that first") from fault
