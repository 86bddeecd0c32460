"""Nothing phones home: services, a sweep on a worker and one here, watched call by call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rsgrpo.config import load_config
from rsgrpo.stages import manifests
from tests.conftest import TINY
from tests.flows.conftest import RSGRPO, started_platform
from tests.network_watch import calls_beyond_loopback, listeners, watching

pytestmark = pytest.mark.slow

ROOTS = {"default": "out", "alone": "alone"}
SWEPT = {"default": [4.0], "alone": [2.0, 6.0]}
PHONES = """
import socket, subprocess, sys
with socket.socket() as caller:
    caller.settimeout(0.1)
    caller.connect_ex(("192.0.2.1", 9))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
    try:
        datagram.sendto(b"x", ("192.0.2.2", 9))
    except OSError:
        pass
with socket.socket() as listener:
    listener.bind(("0.0.0.0", 0))
if len(sys.argv) == 1:
    subprocess.run([sys.executable, "-c", sys.orig_argv[2], "child"])
else:
    try:
        socket.getaddrinfo("name.invalid", 80)
    except OSError:
        pass
"""
STAYS = """
import socket
with socket.socket() as server, socket.socket() as caller:
    server.bind(("127.0.0.1", 0))
    server.listen()
    caller.connect(("localhost", server.getsockname()[1]))
"""


def watched(folder: Path, *command: str) -> Path:
    """Run a command to its end and return the log of its calls."""
    log = folder / "calls"
    subprocess.run([*watching(log), *command], check=True, capture_output=True)
    return log


def test_the_watcher_sees_what_leaves_the_machine(tmp_path: Path) -> None:
    found = calls_beyond_loopback(watched(tmp_path, sys.executable, "-c", PHONES))
    assert len({line.split()[0] for line in found}) == 2, "both of parent and child"
    for wanted in ("connect(", "sendto(", "bind(", '"192.0.2.1"', '"192.0.2.2"', '"0.0.0.0"'):
        assert sum(wanted in line for line in found) >= 2, wanted
    assert any("htons(53)" in line or "Resolve" in line for line in found), "the name"


def test_the_watcher_lets_pass_what_stays(tmp_path: Path) -> None:
    log = watched(tmp_path, sys.executable, "-c", STAYS)
    assert calls_beyond_loopback(log) == []
    assert listeners(log) == {"127.0.0.1"}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calls of the services, of a sweep whose units a worker takes, of one here, of verbs."""
    folder = tmp_path_factory.mktemp("network")
    before = watching(folder / "calls")
    with started_platform(folder, before=before) as platform:
        for root, words in (("default", ["--deployment"]), ("alone", ["--workers", "2"])):
            file = write_sweep(folder, root)
            platform.run(*before, *RSGRPO, "sweep", "run", str(file), "--root", root, *words)
            scores = [m for m in manifests(folder / ROOTS[root]) if m["stage"] == "score"]
            assert len(scores) == len(SWEPT[root])
        for verb in ("status", "trials", "best"):
            words = ["--study-name", "alone", "--root", "alone"]
            platform.run(*before, *RSGRPO, "sweep", verb, *words)
    return folder / "calls"


def write_sweep(folder: Path, name: str) -> Path:
    """Write a sweep at tiny sizes."""
    tree = load_config(None, [*TINY, f"name={name}"]).model_dump(mode="json")
    space = {"training.risk_beta": {"values": SWEPT[name]}}
    tree["sweep"] = {"space": space, "objectives": ["pass_at_1", "pass_at_4"]}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return folder / f"{name}.yaml"


def test_no_service_and_no_run_leaves_the_machine_or_asks_for_a_name(calls: Path) -> None:
    assert calls_beyond_loopback(calls) == []


def test_every_port_is_on_loopback(calls: Path) -> None:
    assert listeners(calls) <= {"127.0.0.1", "::1"}
    assert "127.0.0.1" in listeners(calls)
