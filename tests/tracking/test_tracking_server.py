from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsgrpo.errors import UserError
from rsgrpo.tracking.sender import sync
from rsgrpo.tracking.spool import Spool

pytest.importorskip("mlflow")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """Run a real MLflow server until the block is left; give its address."""
    uri = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination", str(folder / "served"),
    ]  # fmt: skip
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **quiet},
            start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_healthy(uri, folder / "server.log")
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(10)


def _wait_until_healthy(uri: str, log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=2):
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_a_server_that_was_dead_receives_everything_once_it_lives(
    tmp_path: Path, empty_database: Path
) -> None:
    from mlflow.tracking import MlflowClient

    root = tmp_path / "study"
    for name, parent in (("study", None), ("trial", "study"), ("evaluation", "trial")):
        with Spool(root / name / "spool.jsonl", name) as spool:
            spool.start(name, "demo", parent, params={"empty": "", "seed": 0})
            for step in range(3):
                spool.metrics(step, {"zero": 0.0, "nan": float("nan"), "inf": float("inf")})
            spool.artifact(spool.path, "records")
            spool.dataset("countdown", "abc", 10, "enumerated")
            spool.end()
    (tmp_path / "server.db").write_bytes(empty_database.read_bytes())
    port = _free_port()
    begun = time.monotonic()
    with pytest.raises(UserError, match="does not answer"):
        sync(root, f"http://127.0.0.1:{port}")
    assert time.monotonic() - begun < 60
    with mlflow_server(tmp_path, port) as uri:
        summary = sync(root, uri)
        assert (summary.runs, summary.metrics, summary.artifacts) == (3, 27, 3)
        (root / ".sync.json").unlink()
        assert sync(root, uri)[1:3] == (0, 0)
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("rsgrpo")
        assert experiment is not None
        found = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
        for name, parent in (("trial", "study"), ("evaluation", "trial")):
            assert found[name].data.tags["mlflow.parentRunId"] == found[parent].info.run_id
            assert len(client.get_metric_history(found[name].info.run_id, "nan")) == 3
            assert found[name].data.params == {"empty": "", "seed": "0"}
    served = tmp_path / "served" / experiment.experiment_id / found["trial"].info.run_id
    assert (served / "artifacts" / "records" / "spool.jsonl").exists()
    assert (served / "artifacts" / "metrics.parquet").exists()
