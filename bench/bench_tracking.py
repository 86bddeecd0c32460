"""Listing and reading 200 runs of 1,000 numbers against MLflow's client, run by run.

Our own sender ships them to a database, which one real server then serves, artifacts through its
proxy. All readers are measured in this process, MLflow already imported, on that same store.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from rsgrpo.tracking.points_cache import FOLDER_VARIABLE
from rsgrpo.tracking.reader import list_runs, read_runs
from rsgrpo.tracking.sender import sync
from rsgrpo.tracking.spool import Spool
from rsgrpo.tracking.store import EXPERIMENT, quiet_mlflow

RUNS, STEPS, METRICS = 200, 100, 10
RIVAL_RUNS = 20
TARGET = 3.0
WAIT_SECONDS = 120.0


def run() -> list[str]:
    """Return the measured seconds."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "study"
        _record(root)
        shipping = _seconds(lambda: sync(root))[0]
        database = f"sqlite:///{root / 'mlflow.db'}"
        in_place, rows = _seconds(lambda: _read(database))
        assert rows == RUNS * STEPS * METRICS, rows
        _serve_artifacts(root)
        with _empty_cache(Path(folder) / "cache"), _server(root) as uri:
            list_runs(uri)  # the server's first answer imports what it needs
            cold, cold_rows = _seconds(lambda: _read(uri))
            cached, cached_rows = min(_seconds(lambda: _read(uri)) for _ in range(3))
            listing = min(_seconds(lambda: list_runs(uri))[0] for _ in range(3))
            assert cold_rows == cached_rows == rows
            rival = _seconds(lambda: _rival(uri, RIVAL_RUNS))[0] * RUNS / RIVAL_RUNS
    setting = f"{RUNS} runs of {STEPS * METRICS:,} numbers ({METRICS} metrics, {STEPS} steps)"
    return [
        f"tracking: listing and reading {setting} takes {cold:.2f} s cold from a server, "
        f"{cached:.2f} s with the cache, of which the listing {listing:.2f} s, and {in_place:.2f} "
        f"s from a database with its artifacts here (target <= {TARGET:.0f} s)",
        f"tracking: MlflowClient.get_metric_history from the same server takes {rival:.0f} s "
        f"({RIVAL_RUNS} of the runs measured, times {RUNS // RIVAL_RUNS}): {rival / cold:.0f}x "
        f"the cold and {rival / cached:.0f}x the cached reading",
        f"tracking: the sender ships them in {shipping:.0f} s, {rows / shipping:,.0f} numbers a "
        "second",
    ]


def _record(root: Path) -> None:
    for number in range(RUNS):
        name = f"run-{number}"
        with Spool(root / "train" / name / "spool.jsonl", name) as spool:
            spool.start(name, "bench", None, {"stage": "train"}, {"seed": number})
            for step in range(STEPS):
                spool.metrics(step, {f"metric_{m}": step / (m + 1) for m in range(METRICS)})
            spool.end()


def _read(uri: str) -> int:
    return int(read_runs(uri, list_runs(uri)).num_rows)


def _rival(uri: str, runs: int) -> int:
    from mlflow.tracking import MlflowClient

    with quiet_mlflow():
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        found = client.search_runs([experiment.experiment_id], max_results=runs)
        return sum(
            len(client.get_metric_history(run.info.run_id, metric))
            for run in found
            for metric in run.data.metrics
        )


def _seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    began = perf_counter()
    result = action()
    return perf_counter() - began, result


def _serve_artifacts(root: Path) -> None:
    """Have a server hand out the artifacts, rather than name a folder of this machine."""
    here = (root / "mlartifacts").as_uri()
    with sqlite3.connect(root / "mlflow.db") as base:
        base.execute("update runs set artifact_uri = replace(artifact_uri, ?, ?)",
                     (here, "mlflow-artifacts:"))  # fmt: skip


@contextmanager
def _empty_cache(folder: Path) -> Iterator[None]:
    before = os.environ.get(FOLDER_VARIABLE)
    os.environ[FOLDER_VARIABLE] = str(folder)
    try:
        yield
    finally:
        del os.environ[FOLDER_VARIABLE]
        os.environ.update({FOLDER_VARIABLE: before} if before else {})


@contextmanager
def _server(root: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}",
        "--artifacts-destination", str(root / "mlartifacts"),
    ]  # fmt: skip
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root,
        env={**os.environ, **quiet}, start_new_session=True,
    )  # fmt: skip
    uri = f"http://127.0.0.1:{port}"
    try:
        _wait(uri)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(10)


def _wait(uri: str) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while True:
        with suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=2):
            return
        if time.monotonic() > end:
            raise TimeoutError(f"the MLflow server at {uri} did not start")
        time.sleep(0.2)
