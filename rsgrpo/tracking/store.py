"""The MLflow side of shipping; `reader` and `history` are that of reading.

Everything here may be done twice with the result of doing it once.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rsgrpo.errors import UserError
from rsgrpo.tracking.outbox import (
    ARTIFACTS_NAME,
    Parcel,
    Point,
    Record,
    all_points,
    write_points,
)
from rsgrpo.tracking.progress import root_identity
from rsgrpo.tracking.texts import metric_key, stored_texts, text_batches

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "rsgrpo"
RUN_ID_TAG = "rsgrpo.run_id"
ROOT_TAG = "rsgrpo.root"
STUDY_TAG = "rsgrpo.study"
PARENT_TAG = "rsgrpo.parent"
MLFLOW_PARENT_TAG = "mlflow.parentRunId"
CONTEXT_TAG = "mlflow.data.context"

METRICS_PER_BATCH = 1000
LONGEST_DIGEST = 36

# A dead server is noticed in seconds and a silent one within a minute; MLflow waits 4 minutes.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


class SyncSummary(NamedTuple):
    """What was shipped and where to: runs begun there, numbers, tables, artifacts.

    `missing` lists recorded artifacts that are not on disk, `deleted` the ids of runs left alone
    because they were deleted in MLflow.
    """

    tracking_uri: str
    runs: int = 0
    metrics: int = 0
    tables: int = 0
    artifacts: int = 0
    missing: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()

    def plus(self, other: SyncSummary) -> SyncSummary:
        """Return what both shipped to the same store."""
        return SyncSummary(
            self.tracking_uri,
            self.runs + other.runs,
            self.metrics + other.metrics,
            self.tables + other.tables,
            self.artifacts + other.artifacts,
            self.missing + other.missing,
            self.deleted + other.deleted,
        )


class Store:
    """One MLflow experiment, on a server or in a database.

    A run is known there by its id and the identity of the root that it was shipped from: two
    folders that hold the same run are two runs.
    """

    def __init__(self, uri: str, root: Path) -> None:
        """Open the store, making the database and the experiment where they do not exist.

        Args:
            uri: MLflow tracking URI.
            root: Folder that is shipped; its `mlartifacts` takes the artifacts, unless a server
                keeps them.

        Raises:
            UserError: The experiment was deleted in MLflow.
            OSError: The database file may not be written; `filename` is set.
        """
        from mlflow.tracking import MlflowClient

        _refuse_unwritable(uri)
        self.uri = uri
        self.root_id = root_identity(root)
        self.client: MlflowClient = MlflowClient(tracking_uri=uri)
        self.experiment = self._open_experiment(root)
        self._runs: dict[str, str] = {}
        self._begun = 0

    @property
    def identity(self) -> str:
        """What tells this store from any other, whatever its address: experiment and birth."""
        return f"{self.experiment.experiment_id}@{self.experiment.creation_time}"

    def deliver(self, parcel: Parcel, starts: Mapping[str, Record]) -> SyncSummary:
        """Ship what one spool newly says of one run.

        Args:
            parcel: The news.
            starts: The first record of every known run, for the links between them.

        Returns:
            What was shipped.
        """
        begun = self._begun
        run_id = self._run_id(parcel.run, starts)
        if run_id is None:
            return SyncSummary(self.uri, deleted=(parcel.run,))
        if parcel.start:
            self._describe(run_id, parcel.start)
        self._log_tags(run_id, parcel.tags)
        points = self._not_stored(run_id, parcel) if parcel.first else parcel.points
        self._log_points(run_id, points)
        self._log_datasets(run_id, parcel.datasets)
        for table in parcel.tables:
            self._log_table(run_id, table)
        missing = [record for record in parcel.artifacts if not parcel.locate(record).exists()]
        for record in parcel.artifacts:
            if record not in missing:
                self._log_artifact(run_id, parcel.locate(record), record["folder"])
        if parcel.last:
            self._set_status(run_id, parcel, parcel.last)
        return SyncSummary(
            self.uri,
            runs=self._begun - begun,
            metrics=len(points),
            tables=len(parcel.tables),
            artifacts=len(parcel.artifacts) - len(missing),
            missing=tuple(str(parcel.locate(record)) for record in missing),
        )

    def _open_experiment(self, root: Path) -> Experiment:
        found = self.client.get_experiment_by_name(EXPERIMENT) or self._new_experiment(root)
        if found.lifecycle_stage == "deleted":
            raise UserError(
                f"the experiment {EXPERIMENT} was deleted in MLflow at {self.uri}: restore it with "
                f"`mlflow experiments restore -x {found.experiment_id}` and sync again"
            )
        return found

    def _new_experiment(self, root: Path) -> Experiment:
        from mlflow.exceptions import MlflowException

        served = self.uri.startswith(("http://", "https://"))
        location = None if served else (root / ARTIFACTS_NAME).as_uri()
        try:
            self.client.create_experiment(EXPERIMENT, artifact_location=location)
        except MlflowException as fault:
            # another sender was faster, or the answer to a first attempt was lost
            if fault.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self.client.get_experiment_by_name(EXPERIMENT)

    def _run_id(self, run: str, starts: Mapping[str, Record]) -> str | None:
        """Return MLflow's id of a run, begun there if need be; None where it was deleted."""
        if run not in self._runs:
            found = self._find(RUN_ID_TAG, run)
            if found and all(one.info.lifecycle_stage == "deleted" for one in found):
                return None
            self._runs[run] = self._only(found) if found else self._begin(run, starts)
        return self._runs[run]

    def _only(self, found: list[Run]) -> str:
        """Return the id of a run, and delete what a lost answer of the server made besides it."""
        active = [one for one in found if one.info.lifecycle_stage != "deleted"]
        first, *others = sorted(
            active, key=lambda one: (-len(one.data.metrics), -len(one.data.params), one.info.run_id)
        )
        for other in others:
            self.client.delete_run(other.info.run_id)
        return str(first.info.run_id)

    def _find(self, tag: str, value: str) -> list[Run]:
        from mlflow.entities import ViewType

        return list(
            self.client.search_runs(
                [self.experiment.experiment_id],
                filter_string=(
                    f"tags.`{tag}` = '{value}' and tags.`{ROOT_TAG}` = '{self.root_id}'"
                ),
                run_view_type=ViewType.ALL,
            )
        )

    def _begin(self, run: str, starts: Mapping[str, Record]) -> str:
        start = starts.get(run, {})
        tags = {RUN_ID_TAG: run, ROOT_TAG: self.root_id}
        if parent := start.get("parent"):
            tags[PARENT_TAG] = parent
            above = self._run_id(parent, starts) if parent in starts else self._found_id(parent)
            if above:
                tags[MLFLOW_PARENT_TAG] = above
        self.client.create_run(
            self.experiment.experiment_id,
            start_time=start.get("time"),
            tags=tags,
            run_name=start.get("name", run),
        )
        self._begun += 1
        # MLflow's client asks again where an answer was lost, and the server begins a second run.
        run_id = self._only(self._find(RUN_ID_TAG, run))
        self._adopt(run, run_id)
        return run_id

    def _found_id(self, run: str) -> str | None:
        found = self._find(RUN_ID_TAG, run)
        active = [one for one in found if one.info.lifecycle_stage != "deleted"]
        return active[0].info.run_id if active else None

    def _adopt(self, run: str, run_id: str) -> None:
        """Link runs that were shipped before the run above them."""
        for child in self._find(PARENT_TAG, run):
            if child.info.lifecycle_stage != "deleted":
                self.client.set_tag(child.info.run_id, MLFLOW_PARENT_TAG, run_id)

    def _describe(self, run_id: str, start: Record) -> None:
        """Log tags and parameters; a parameter's first value stands, as MLflow demands."""
        from mlflow.entities import Param

        data = self.client.get_run(run_id).data
        params = stored_texts(start["params"])
        tags = stored_texts({STUDY_TAG: start["study"], **start["tags"]})
        fresh = {key: value for key, value in params.items() if key not in data.params}
        changed = {key: value for key, value in tags.items() if data.tags.get(key) != value}
        for batch in text_batches(fresh):
            self._log_batch(run_id, params=[Param(*item) for item in batch])
        self._log_tags(run_id, changed)

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for batch in text_batches(stored_texts(tags)):
            self._log_batch(run_id, tags=[RunTag(*item) for item in batch])

    def _not_stored(self, run_id: str, parcel: Parcel) -> list[Point]:
        """Return the parcel's points but those of a (step, name) that MLflow has.

        MLflow itself drops a point sent twice, but takes five times as long as for a new one.
        """
        if not parcel.points:
            return []
        known = self.client.get_run(run_id).data.metrics
        stored = {
            (name, point.step)
            for name in known.keys() & {metric_key(point.metric) for point in parcel.points}
            for point in self.client.get_metric_history(run_id, name)
        }
        return [
            point for point in parcel.points if (metric_key(point.metric), point.step) not in stored
        ]

    def _log_points(self, run_id: str, points: list[Point]) -> None:
        from mlflow.entities import Metric

        for begin in range(0, len(points), METRICS_PER_BATCH):
            batch = points[begin : begin + METRICS_PER_BATCH]
            metrics = [Metric(metric_key(p.metric), p.value, p.time, p.step) for p in batch]
            self._log_batch(run_id, metrics=metrics)

    def _log_batch(self, run_id: str, **entities: Any) -> None:
        self.client.log_batch(run_id, synchronous=True, **entities)

    def _log_datasets(self, run_id: str, records: list[Record]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=record["name"],
                    digest=record["digest"][:LONGEST_DIGEST],
                    source_type="local",
                    source=json.dumps({"uri": record["source"]}),
                    profile=json.dumps({"num_rows": record["rows"], "digest": record["digest"]}),
                ),
                [InputTag(CONTEXT_TAG, record["context"])] if record.get("context") else [],
            )
            for record in records
        ]
        if inputs:
            self.client.log_inputs(run_id, datasets=inputs)

    def _log_table(self, run_id: str, table: Record) -> None:
        name = f"tables/{metric_key(table['name'])}/step_{table['step']:08d}.json"
        self.client.log_text(run_id, json.dumps(table["data"]), name)

    def _log_artifact(self, run_id: str, path: Path, folder: str) -> None:
        if path.is_dir():
            inside = posixpath.join(folder, path.name)
            self.client.log_artifacts(run_id, str(path), inside)
        else:
            self.client.log_artifact(run_id, str(path), folder or None)

    def _set_status(self, run_id: str, parcel: Parcel, last: Record) -> None:
        if last["kind"] == "start":
            self.client.update_run(run_id, status="RUNNING")
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "metrics.parquet"
            write_points(all_points(parcel.spool, parcel.run), path)
            self.client.log_artifact(run_id, str(path))
        self.client.set_terminated(run_id, status=last["status"], end_time=last["time"])


@contextlib.contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Set MLflow's environment for the time of a pass: no telemetry, few words, short waits.

    A variable that the user has set stands.
    """
    added = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def explained(uri: str, root: Path) -> Iterator[None]:
    """Turn a fault of MLflow, its server or its database into one sentence.

    Args:
        uri: The store, for the sentence.
        root: The folder that is shipped, for the sentence.

    Raises:
        UserError: MLflow did not take the records.
    """
    from mlflow.exceptions import MlflowException, RestException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    kept = f"nothing is lost, the spools under {root} hold every record"
    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as fault:
        if uri.startswith("http") and not isinstance(fault, RestException):
            raise UserError(
                f"the MLflow server at {uri} does not answer: start it or name another one, then "
                f"sync again; {kept}"
            ) from fault
        reason = str(fault).strip().splitlines()[0][:200].rstrip(".")
        raise UserError(
            f"MLflow at {uri} refused the records ({reason}): mend that, then sync again; {kept}"
        ) from fault


def _refuse_unwritable(uri: str) -> None:
    # MLflow tries an SQLite file that it cannot open again and again for 100 seconds.
    if uri.startswith("sqlite:///"):
        database = uri.removeprefix("sqlite:///").partition("?")[0]
        os.close(os.open(database, os.O_RDWR | os.O_CREAT, 0o644))
