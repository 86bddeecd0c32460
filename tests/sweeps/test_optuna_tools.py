"""Optuna's own command line and dashboard read the study of a sweep, whatever keeps it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.space import load_sweep
from sweeps.study import create
from tests.conftest import TINY

pytestmark = pytest.mark.slow

PROGRAMS = Path(sys.executable).parent
SWEEP = {
    "space": {"training.risk_beta": {"values": [1.0, 2.0]}},
    "objectives": ["pass_at_1", "pass_at_4"],
}


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage with a sweep whose one trial is complete."""
    name = request.param
    text = {"sqlite": f"sqlite:///{tmp_path / 'optuna.db'}", "journal": f"{tmp_path}/optuna.log"}
    chosen = text.get(name) or str(request.getfixturevalue("postgresql_url"))
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"sweep": SWEEP}))
    plan = load_sweep([tmp_path / "sweep.yaml"], TINY)
    study = create(plan, chosen, "ours", tmp_path / "out").study
    study.enqueue_trial({"training.risk_beta": 2.0})
    study.tell(study.ask(), [0.25, 0.5])
    return chosen


def test_the_optuna_command_lists_the_sweep_and_its_trials(storage: str) -> None:
    words = ["--storage", storage]
    if storage.endswith(".log"):
        words += ["--storage-class", "JournalFileBackend"]
    [study] = optuna("studies", *words)
    assert (study["name"], study["n_trials"]) == ("ours", 1)
    [trial] = optuna("trials", "--study-name", "ours", *words)
    assert trial["state"] == "COMPLETE"
    assert [float(value) for value in trial["values"].values()] == [0.25, 0.5]


def optuna(verb: str, *words: str) -> list[dict[str, Any]]:
    """Run Optuna's command and return its rows."""
    done = subprocess.run(
        [str(PROGRAMS / "optuna"), verb, "-f", "json", *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_the_dashboard_shows_the_sweep_and_its_trials(storage: str) -> None:
    with dashboard(storage) as url:
        [study] = read(f"{url}/studies")["study_summaries"]
        assert study["study_name"] == "ours"
        assert study["directions"] == ["maximize", "maximize"]
        shown = read(f"{url}/studies/{study['study_id']}")
        [trial] = shown["trials"]
        assert (trial["state"], trial["values"]) == ("Complete", [0.25, 0.5])
        assert "rsgrpo.config" in {attribute["key"] for attribute in shown["user_attrs"]}


@contextmanager
def dashboard(storage: str) -> Iterator[str]:
    """Run the real dashboard until the block is left; give the address of what it serves."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([str(PROGRAMS / "optuna-dashboard"), storage, *where])
    try:
        url = f"http://127.0.0.1:{port}/api"
        end = time.monotonic() + 90
        while True:
            with suppress(OSError):
                read(f"{url}/studies")
                break
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as reply:
        return json.loads(reply.read())
