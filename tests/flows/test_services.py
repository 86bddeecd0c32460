"""`rsgrpo up` and `rsgrpo doctor`: what they start, what they find, what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from flows import doctor
from flows.services import addresses, mlflow_command, prefect_command, service_environment
from rsgrpo.config import load_config
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


@pytest.mark.slow
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
def test_a_run_whose_process_and_worker_are_gone_is_ended_by_the_server(
    platform: Platform,
) -> None:
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
    wait_until(lambda: state_of(platform, run) == "CRASHED", 240)


@pytest.mark.slow
def test_nothing_outlives_a_killed_up(tmp_path: Path) -> None:
    with started_platform(tmp_path) as killed:
        killed.process.kill()
        wait_until(lambda: killed.pids() == [], 30)


@pytest.mark.slow
def test_ctrl_c_ends_everything_and_training_leaves_a_checkpoint(
    tmp_path: Path,
) -> None:
    longer = [*TINY, "training.steps=2000", "training.save_every=1000"]
    study = json.dumps(load_config(None, longer).model_dump(mode="json"))
    with started_platform(tmp_path) as ended:
        command = [*PREFECT, "deployment", "run", "train-policy/train-policy"]
        ended.run(*command, "-p", f"config={study}")
        spools = ended.root / "train"
        wait_until(lambda: any('"metrics"' in f.read_text() for f in spools.glob("*/spool.jsonl")))
        ended.process.send_signal(signal.SIGINT)
        wait_until(lambda: ended.pids() == [], 60)
        assert list(spools.glob("*/.work/checkpoint-*"))


def workers(platform: Platform) -> list[int]:
    """Return the processes of the first worker, less the one that watches over it."""
    found = platform.pids("prefect", "worker", "--name gpu-1")
    return [
        pid for pid in found if "rsgrpo.lifeline" not in " ".join(psutil.Process(pid).cmdline())
    ]
