"""The real services, started as a user starts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
RSGRPO = [sys.executable, "-c", "from rsgrpo.cli import main; main()"]
PREFECT = [sys.executable, "-m", "prefect"]


class Platform(NamedTuple):
    """Prefect server, MLflow server and workers of one test, with the root they write to."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    home: Path
    root: Path
    mlflow: str

    def run(self, *command: str, timeout: float = 600) -> str:
        """Run a command in the checkout as a user would; return what it prints."""
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def pids(self, *words: str) -> list[int]:
        """Return the processes of this platform whose command line holds all the words."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            line = " ".join(process.info["cmdline"] or ())
            known = process.info["environ"] or {}
            ours = known.get("RSGRPO_WORKER") == self.environment["RSGRPO_WORKER"]
            if ours and all(word in line for word in words):
                found.append(process.pid)
        return found


@contextmanager
def started_platform(
    folder: Path, workers: int = 1, before: Sequence[str] = (), deployed: bool = True
) -> Iterator[Platform]:
    """Start everything with `rsgrpo up`, deploy the flows, and end it with Ctrl-C.

    `before` goes before the words of each command, for a program that watches it; a platform on
    which no flow runs needs none `deployed`.
    """
    home, root = folder / "services", folder / "out"
    prefect, mlflow = free_port(), free_port()
    roots = {"default": str(root), "alone": str(folder / "alone")}
    (folder / "worker.yaml").write_text(yaml.safe_dump({"roots": roots}))
    environment = {
        **os.environ,
        "RSGRPO_WORKER": str(folder / "worker.yaml"),
        "PREFECT_API_URL": f"http://127.0.0.1:{prefect}/api",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow}",
        "PREFECT_HOME": str(folder / "client"),
        "RSGRPO_DATA": str(folder / "data"),
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
    }
    ports = ["--prefect-port", str(prefect), "--mlflow-port", str(mlflow)]
    process = subprocess.Popen(
        [*before, *RSGRPO, "up", "--home", str(home), "--workers", str(workers), *ports],
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    platform = Platform(process, environment, home, root, f"http://127.0.0.1:{mlflow}")
    try:
        read_until(process, "Ctrl-C ends everything")
        if deployed:
            platform.run(*before, *PREFECT, "--no-prompt", "deploy", "--all")
        yield platform
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    wait_until(lambda: platform.pids() == [], 20)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that all tests share."""
    with started_platform(tmp_path_factory.mktemp("platform"), workers=2) as started:
        yield started


def free_port() -> int:
    """Return a port that nothing listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Read a process's output until it holds the words."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if words in line:
            return read
    raise AssertionError(f"it ended without saying {words!r}: {read}")


def wait_until(condition: Callable[[], Any], seconds: float = 180) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def read_api(platform: Platform, kind: str) -> list[dict[str, Any]]:
    """Return all objects of a kind that the Prefect server holds."""
    code = (
        "import sys, httpx\n"
        "url, kind = sys.argv[1:]\n"
        "found = []\n"
        "while True:\n"
        "    body = {'limit': 200, 'offset': len(found)}\n"
        "    page = httpx.post(f'{url}/{kind}/filter', json=body).json()\n"
        "    found += page\n"
        "    if len(page) < 200: break\n"
        "import json; print(json.dumps(found))"
    )
    found = platform.run(sys.executable, "-c", code, platform.environment["PREFECT_API_URL"], kind)
    rows: list[dict[str, Any]] = json.loads(found.strip().splitlines()[-1])
    return rows


def state_of(platform: Platform, flow_run: str) -> str:
    [run] = [run for run in read_api(platform, "flow_runs") if run["id"] == flow_run]
    return str(run["state"]["type"])
