"""Senders that are killed, doubled or cut off: what they leave equals one undisturbed shipping."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rsgrpo.errors import UserError
from rsgrpo.tracking.sender import sync
from rsgrpo.tracking.spool import Spool
from rsgrpo.tracking.store import Store

pytest.importorskip("mlflow")
HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
# What MLflow makes up anew at every shipping.
_OF_EACH_STORE = ("mlflow.parentRunId", "mlflow.user", "mlflow.runName", "rsgrpo.root")


def write(root: Path, runs: int = 3, steps: int = 350) -> int:
    """Record a study of runs below one parent; return how many numbers they have."""
    with Spool(root / "spool.jsonl", "study") as spool:
        spool.start("study", "demo", params={f"p{i}": i for i in range(120)})
    for run in range(runs):
        folder = root / f"run-{run}"
        with Spool(folder / "spool.jsonl", f"run-{run}") as spool:
            spool.start(f"run-{run}", "demo", "study", {"method": "x"}, {"seed": run})
            spool.dataset("train.jsonl", f"{run}" * 32, 10, "here", "training")
            for step in range(steps):
                values = {"a": step, "b": math.nan if step == 3 else run, "c": -step}
                spool.metrics(step, values, time_ms=1000 + step)
            spool.table("shape", 1, {"counts": [run]})
            (folder / "config.yaml").write_text(f"seed: {run}\n")
            spool.artifact(folder / "config.yaml")
            spool.end()
    return runs * steps * 3


def contents(database: Path) -> Counter[tuple[Any, ...]]:
    """Return what a store holds of runs that nobody deleted, each row as often as it is there."""
    runs = (
        "(select r.run_uuid id, r.name, r.status from runs r where r.lifecycle_stage = 'active') r"
    )
    queries = [
        f"select 'run', r.name, r.status from {runs}",
        f"select 'metric', r.name, m.key, m.step, m.value, m.is_nan, m.timestamp "
        f"from metrics m join {runs} on m.run_uuid = r.id",
        f"select 'param', r.name, p.key, p.value from params p join {runs} on p.run_uuid = r.id",
        f"select 'tag', r.name, t.key, t.value from tags t join {runs} on t.run_uuid = r.id "
        f"where t.key not in {_OF_EACH_STORE}",
        f"select 'parent', r.name, (select name from runs where run_uuid = t.value) from tags t "
        f"join {runs} on t.run_uuid = r.id where t.key = 'mlflow.parentRunId'",
        f"select 'input', r.name, d.name, d.digest, g.name, g.value from inputs i join {runs} on "
        "i.destination_id = r.id join datasets d on i.source_id = d.dataset_uuid "
        "left join input_tags g on g.input_uuid = i.input_uuid",
    ]
    with sqlite3.connect(database) as base:
        return Counter(row for query in queries for row in base.execute(query))


@pytest.fixture
def undisturbed(tmp_path: Path, empty_database: Path) -> Path:
    """The database that one undisturbed sender leaves of the same study."""
    root = tmp_path / "undisturbed"
    root.mkdir()
    (root / "mlflow.db").write_bytes(empty_database.read_bytes())
    write(root)
    sync(root)
    return root / "mlflow.db"


def send_until_done(root: Path, attempts: int = 400) -> int:
    """Sync until it gets through; return how often it failed."""
    for failed in range(attempts):
        try:
            sync(root)
        except UserError:
            continue
        return failed
    raise AssertionError("never got through")


@pytest.mark.parametrize("known", [True, False], ids=["progress kept", "progress lost"])
def test_every_lost_answer_is_made_up_for(
    known: bool, root: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server did what it was told, and the sender hears of a fault, at each of its requests."""
    from requests import ConnectionError as Lost

    answered: set[str] = set()
    real = Store._log_batch

    def log_batch(self: Store, run_id: str, **entities: Any) -> None:
        real(self, run_id, **entities)
        request = f"{run_id} {entities}"
        if request not in answered:
            answered.add(request)
            if not known:
                (root / ".sync.json").unlink(missing_ok=True)
            raise Lost("the answer is lost")

    monkeypatch.setattr(Store, "_log_batch", log_batch)
    write(root)
    assert send_until_done(root) >= 8
    assert contents(root / "mlflow.db") == contents(undisturbed)


def test_a_run_begun_twice_because_the_answer_was_lost_is_one_run(
    root: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    real = MlflowClient.create_run

    def create_run(self: MlflowClient, *values: Any, **named: Any) -> Any:
        real(self, *values, **named)
        return real(self, *values, **named)

    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    write(root)
    assert sync(root).runs == 4
    assert contents(root / "mlflow.db") == contents(undisturbed)
    with sqlite3.connect(root / "mlflow.db") as base:
        stages = Counter(row[0] for row in base.execute("select lifecycle_stage from runs"))
    assert stages == {"active": 4, "deleted": 4}
    (root / ".sync.json").unlink()
    assert sync(root).runs == 0
    assert contents(root / "mlflow.db") == contents(undisturbed)


def test_two_senders_that_begin_a_store_together_share_its_experiment(
    root: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    real = MlflowClient.get_experiment_by_name
    asked: list[str] = []

    def get_experiment_by_name(self: MlflowClient, name: str) -> Any:
        asked.append(name)
        if len(asked) == 1:  # the other one makes it in between
            self.create_experiment(name, artifact_location=(root / "mlartifacts").as_uri())
            return None
        return real(self, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", get_experiment_by_name)
    write(root)
    assert sync(root).runs == 4
    assert contents(root / "mlflow.db") == contents(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_senders_killed_at_random_moments_leave_nothing_out_and_nothing_twice(
    seed: int, root: Path, undisturbed: Path
) -> None:
    write(root)
    store = f"sqlite:///{root / 'mlflow.db'}"
    command = [sys.executable, str(HERE / "kill_senders.py"), str(root), store, "8", str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2, "too few were killed at work"
    assert contents(root / "mlflow.db") == contents(undisturbed)


@pytest.mark.slow
def test_two_senders_of_one_folder_at_once_ship_everything_once(
    root: Path, undisturbed: Path
) -> None:
    write(root)
    command = [sys.executable, "-m", "rsgrpo.tracking.sender", str(root)]
    senders = [subprocess.Popen(command, cwd=CHECKOUT) for _ in range(2)]
    assert [sender.wait(120) for sender in senders] == [0, 0]
    assert contents(root / "mlflow.db") == contents(undisturbed)


@pytest.mark.slow
def test_a_server_killed_in_mid_batch_gets_the_rest_once_it_is_back(
    tmp_path: Path, empty_database: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tracking.test_tracking_server import _free_port, mlflow_server

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    root, port = tmp_path / "study", _free_port()
    numbers = write(root)
    (tmp_path / "server.db").write_bytes(empty_database.read_bytes())
    with mlflow_server(tmp_path, port) as uri:
        killer = threading.Thread(target=_kill_at, args=(tmp_path, port, numbers // 3))
        killer.start()
        with pytest.raises(UserError, match="does not answer"):
            sync(root, uri)
        killer.join()
    assert numbers // 3 <= _numbers(tmp_path / "server.db") < numbers
    with mlflow_server(tmp_path, port) as uri:
        sync(root, uri)
        assert contents(tmp_path / "server.db") == contents(undisturbed)
        assert sync(root, uri)[1:5] == (0, 0, 0, 0)


def _numbers(database: Path) -> int:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as base:
        return int(base.execute("select count(*) from metrics").fetchone()[0])


def _kill_at(folder: Path, port: int, numbers: int) -> None:
    """Kill the server of a port as soon as its database holds so many numbers."""
    import psutil

    while _numbers(folder / "server.db") < numbers:
        time.sleep(0.005)
    (server,) = [c for c in psutil.Process().children() if str(port) in c.cmdline()]
    os.killpg(server.pid, signal.SIGKILL)
