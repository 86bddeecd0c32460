"""`rsgrpo up` and `rsgrpo doctor`: what they start, what they find, what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from flows import doctor
from flows.services import (
    addresses,
    keep_running,
    mlflow_command,
    prefect_command,
    service_environment,
    start_service,
)
from rsgrpo.config import load_config
from rsgrpo.processes import end_processes
from tests.conftest import TINY
from tests.flows.conftest import (
    CHECKOUT,
    PREFECT,
    RSGRPO,
    Platform,
    free_port,
    read_api,
    started_platform,
    state_of,
    wait_until,
)


def test_every_service_binds_to_loopback_and_reports_to_nobody(tmp_path: Path) -> None:
    at = addresses(4200, 5000)
    assert at == ("http://127.0.0.1:4200", "http://127.0.0.1:4200/api", "http://127.0.0.1:5000")
    for command in (prefect_command(4200), mlflow_command(tmp_path, 5000)):
        assert command[command.index("--host") + 1] == "127.0.0.1"
    environment = service_environment(tmp_path, at)
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ports = ["--prefect-port", port, "--mlflow-port", str(free_port())]
        done = subprocess.run(
            [*RSGRPO, "up", "--home", str(tmp_path), *ports],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr == (
        f"rsgrpo: port {port} for Prefect is taken on 127.0.0.1: stop what listens there, or "
        "choose another with --prefect-port\n"
    )


def test_a_flow_without_a_server_is_one_sentence() -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    done = subprocess.run(
        [*RSGRPO, "pipeline"],
        cwd=CHECKOUT,
        env={**os.environ, "PREFECT_API_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"rsgrpo: no Prefect server answers at {url}: start one with `rsgrpo up`, or name another "
        "in PREFECT_API_URL\n"
    )


def test_the_dry_run_of_a_flow_needs_no_server() -> None:
    command = [*RSGRPO, "beta-sweep", "-c", "configs/beta_sweep_math12k.yaml", "--dry-run"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "GiB" in done.stdout


def test_the_doctor_says_what_to_do(tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ill = doctor.check_port("MLflow", port, f"http://127.0.0.1:{port}/health")
    assert (
        not ill.well and "taken by another program" in ill.found and "--mlflow-port" in ill.advice
    )
    free = free_port()
    well = doctor.check_port("MLflow", free, f"http://127.0.0.1:{free}/health")
    assert well.well and "free" in well.found
    (tmp_path / "optuna.db").write_bytes(b"this is no database, whatever its name says" * 9)
    assert not doctor.check_store(tmp_path / "optuna.db").well
    assert doctor.check_python().well
    assert all(check.well for check in doctor.check_packages())
    missing = doctor._check_package("no-such-package", ">=1")
    assert (missing.well, missing.found) == (False, "not installed")
    old = doctor._check_package("numpy", ">=99")
    assert not old.well and "install numpy>=99" in old.advice


def test_the_doctors_verdict_is_its_exit_status(tmp_path: Path) -> None:
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    command = [*RSGRPO, "doctor", "--root", str(tmp_path), "--home", str(tmp_path), *ports]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == ("FAIL" in done.stdout), done.stderr
    (tmp_path / "optuna.db").write_bytes(b"no database" * 99)
    ill = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert ill.returncode == 1
    assert "FAIL" in ill.stdout and "move the file away" in ill.stdout


@pytest.fixture(scope="module")
def forsaken(platform: Platform) -> str:
    """A run whose process and worker were killed; the server needs two minutes to notice."""
    study = json.dumps(load_config(None, [*TINY, "training.steps=9000"]).model_dump(mode="json"))
    command = [*PREFECT, "deployment", "run", "train-policy/train-policy"]
    platform.run(*command, "-p", f"config={study}")

    def running() -> list[str]:
        runs = read_api(platform, "flow_runs")
        return [run["id"] for run in runs if run["state"]["type"] == "RUNNING"]

    wait_until(lambda: running() and platform.pids("rsgrpo.stages", "train"))
    [run] = running()
    [trainer, *_] = platform.pids("rsgrpo.stages", "train")
    flow = psutil.Process(trainer).parent()
    assert flow is not None
    worker = flow.parent()
    assert worker is not None
    worker.kill()
    flow.kill()
    wait_until(lambda: not worker.is_running() and len(workers(platform)) == 1, 30)
    return run


@pytest.mark.slow
@pytest.mark.usefixtures("forsaken")  # what it waits for happens while the tests below run
def test_all_ports_are_on_loopback(platform: Platform) -> None:
    listening = [
        (connection.laddr.ip, pid)
        for pid in platform.pids()
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 2
    assert {ip for ip, _ in listening} == {"127.0.0.1"}


@pytest.mark.slow
def test_a_service_that_is_killed_is_started_again(platform: Platform) -> None:
    [worker] = workers(platform)
    psutil.Process(worker).kill()
    wait_until(lambda: set(workers(platform)) - {worker}, 30)


@pytest.mark.slow
def test_the_work_pools_have_limits_and_flows_outlive_the_pipe_of_their_worker(
    platform: Platform,
) -> None:
    pools = {pool["name"]: pool for pool in read_api(platform, "work_pools")}
    assert {name: pools[name]["concurrency_limit"] for name in ("cpu", "gpu")} == {
        "cpu": 100,
        "gpu": 2,
    }
    for pool in (pools["cpu"], pools["gpu"]):
        variables = pool["base_job_template"]["variables"]["properties"]
        assert variables["stream_output"]["default"] is False


@pytest.mark.slow
def test_a_closed_terminal_ends_everything(tmp_path: Path) -> None:
    with started_platform(tmp_path, deployed=False) as closed:
        closed.process.send_signal(signal.SIGHUP)
        wait_until(lambda: closed.pids() == [], 60)


@pytest.mark.slow
def test_ctrl_c_ends_everything_training_leaves_a_checkpoint_and_what_waits_does_not_begin(
    tmp_path: Path,
) -> None:
    longer = [*TINY, "training.steps=2000", "training.save_every=1000"]
    with started_platform(tmp_path) as ended:
        for seed in (0, 1):
            study = load_config(None, [*longer, f"training.seed={seed}"]).model_dump(mode="json")
            command = [*PREFECT, "deployment", "run", "train-policy/train-policy"]
            ended.run(*command, "-p", f"config={json.dumps(study)}")
        spools = ended.root / "train"
        wait_until(lambda: any('"metrics"' in f.read_text() for f in spools.glob("*/spool.jsonl")))
        ended.process.send_signal(signal.SIGINT)
        wait_until(lambda: ended.pids() == [], 60)
        assert list(spools.glob("*/.work/checkpoint-*"))
        assert len(list(spools.iterdir())) == 1


def test_a_service_that_ends_again_and_again_is_started_less_and_less_often(
    tmp_path: Path,
) -> None:
    ends = start_service("ends", ("antigravity_not_there",), tmp_path / "ends.log", {})
    restarts: list[float] = []

    def say(line: str) -> None:
        if "is started again" in line:
            restarts.append(time.monotonic())
            if len(restarts) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_running(running := [ends], {}, say)
    end_processes([service.process for service in running], 0.0)
    first, second = (later - one for one, later in pairwise(restarts))
    assert first > 1.5 and second > 2.5
    assert len(list(tmp_path.glob("ends.*.log"))) == 3  # the log of each that ended is kept


@pytest.mark.slow
def test_a_unit_whose_flow_run_was_deleted_fails_with_a_sentence(platform: Platform) -> None:
    code = (
        "from uuid import uuid4\n"
        "from flows.units import _wait_for_worker\n"
        "from rsgrpo.errors import UserError\n"
        "try:\n"
        "    _wait_for_worker(uuid4())\n"
        "except UserError as fault:\n"
        "    print(fault)"
    )
    printed = platform.run(sys.executable, "-c", code, timeout=60)
    assert "was deleted: run the same command again" in printed


@pytest.mark.slow
def test_a_fault_of_the_user_in_a_flow_is_its_sentence_without_a_traceback(
    platform: Platform, tmp_path: Path
) -> None:
    (tmp_path / "mine.jsonl").write_text('{"id": "a", "problem": "1 + 1", "answer": "2"}\n{"id"\n')
    overrides = [
        "data.source=jsonl",
        "grading.verifier=math_verify",
        f"policy.checkpoint={tmp_path}",
        f"data.train={tmp_path / 'mine.jsonl'}",
    ]
    done = subprocess.run(
        [*RSGRPO, "pipeline", *(word for override in overrides for word in ("--set", override))],
        cwd=CHECKOUT,
        env=platform.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    [sentence] = [line for line in done.stderr.splitlines() if line.startswith("rsgrpo: ")]
    assert "mine.jsonl, line 2 is not valid JSON" in sentence
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
def test_a_run_whose_process_and_worker_are_gone_is_ended_by_the_server(
    platform: Platform, forsaken: str
) -> None:
    wait_until(lambda: state_of(platform, forsaken) == "CRASHED", 240)


def workers(platform: Platform) -> list[int]:
    """Return the processes of the first worker, less the one that watches over it."""
    found = platform.pids("prefect", "worker", "--name gpu-1")
    return [
        pid for pid in found if "rsgrpo.lifeline" not in " ".join(psutil.Process(pid).cmdline())
    ]
