"""`rsgrpo up`: Prefect server, MLflow server and workers on this machine, on loopback alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from rsgrpo.errors import UserError
from rsgrpo.processes import end_process, end_processes, start_process

HOST = "127.0.0.1"
HEALTHY_SECONDS = 120.0
FLOW_GRACE = 15.0  # a trainer that saves a checkpoint takes up to 9
WORKER_GRACE = 10.0
SERVER_GRACE = 5.0

# Nothing phones home, in any service or anything that one of them starts.
SILENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


class Addresses(NamedTuple):
    """Where the services are reached."""

    prefect_ui: str
    prefect_api: str
    mlflow: str


class Service(NamedTuple):
    """A running service: its command line after `python -m`, its process, its log."""

    name: str
    command: tuple[str, ...]
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def services(
    home: Path, workers: int, prefect_port: int, mlflow_port: int, say: Callable[[str], None]
) -> Iterator[tuple[Addresses, list[Service]]]:
    """Start all services, wait until they answer, end them when the body is left.

    Args:
        home: Folder of their databases and logs.
        workers: Workers of the pool `gpu`; each takes one unit at a time.
        prefect_port: Port of the Prefect server.
        mlflow_port: Port of the MLflow server.
        say: Takes a line for the user as each service answers.

    Yields:
        The addresses, and the list of the running services.

    Raises:
        UserError: A port is taken, or a service ended or did not answer in time.
    """
    for name, port in (("Prefect", prefect_port), ("MLflow", mlflow_port)):
        refuse_taken_port(name, port)
    at = addresses(prefect_port, mlflow_port)
    environment = service_environment(home, at)
    running: list[Service] = []

    def start(name: str, *command: str) -> Service:
        running.append(start_service(name, command, home / "logs" / f"{name}.log", environment))
        return running[-1]

    try:
        prefect = start("prefect", *prefect_command(prefect_port))
        mlflow = start("mlflow", *mlflow_command(home, mlflow_port))
        wait_healthy(prefect, f"{at.prefect_api}/health", say)
        wait_healthy(mlflow, f"{at.mlflow}/health", say)
        bootstrap(environment, workers)
        for name, pool in worker_names(workers):
            start(name, *worker_command(name, pool))
        yield at, running
    finally:
        workers_running = [s for s in running if s.name not in ("prefect", "mlflow")]
        end_flow_runs(workers_running)
        end_processes([service.process for service in workers_running], WORKER_GRACE)
        end_processes([service.process for service in running], SERVER_GRACE)


def end_flow_runs(workers: list[Service]) -> None:
    """End the flow runs of workers, which save what they can; a worker itself would kill them.

    The workers are held first, or one would take the next run meanwhile.
    """
    import psutil

    flows: list[psutil.Process] = []
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(worker.process.pid).send_signal(signal.SIGSTOP)
            flows += [
                child
                for child in psutil.Process(worker.process.pid).children()
                if os.getpgid(child.pid) != worker.process.pid  # not what watches over the worker
            ]
    for flow in flows:
        with suppress(psutil.NoSuchProcess):
            flow.terminate()
    psutil.wait_procs(flows, timeout=FLOW_GRACE)


def addresses(prefect_port: int, mlflow_port: int) -> Addresses:
    """Return where services on these ports are reached."""
    ui = f"http://{HOST}:{prefect_port}"
    return Addresses(ui, f"{ui}/api", f"http://{HOST}:{mlflow_port}")


def service_environment(home: Path, at: Addresses) -> dict[str, str]:
    """Return what the services and everything that they start have in their environment."""
    return {
        **SILENT,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": at.prefect_api,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        # how often a worker looks for a flow run; ten seconds by default, more than a small trial
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "MLFLOW_TRACKING_URI": at.mlflow,
    }


def prefect_command(port: int) -> list[str]:
    """Return the Prefect server's command line, after `python -m`."""
    return ["prefect", "server", "start", "--host", HOST, "--port", str(port)]


def mlflow_command(home: Path, port: int) -> list[str]:
    """Return the MLflow server's command line, after `python -m`."""
    # one process, whose threads serve many clients: each further one takes seconds and 250 MB
    store = ["--workers", "1", "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"]
    artifacts = ["--artifacts-destination", str(home / "mlartifacts")]
    return ["mlflow", "server", "--host", HOST, "--port", str(port), *store, *artifacts]


def worker_command(name: str, pool: str) -> list[str]:
    """Return a worker's command line, after `python -m`."""
    limit = ["--limit", "1"] if pool == "gpu" else []
    return ["prefect", "worker", "start", "--pool", pool, "--name", name, *limit]


def worker_names(workers: int) -> list[tuple[str, str]]:
    """Return (name, pool) of each worker: one that orchestrates, the others take units."""
    return [("cpu-1", "cpu"), *((f"gpu-{i}", "gpu") for i in range(1, workers + 1))]


def bootstrap(environment: Mapping[str, str], workers: int) -> None:
    """Make the work pools and their concurrency limits; made again they are only updated.

    Raises:
        UserError: The Prefect server refused.
    """
    command = [sys.executable, "-m", "flows.work_pools", str(workers)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise UserError(f"the work pools could not be made ({''.join(last)}): see the server's log")


def refuse_taken_port(name: str, port: int) -> None:
    """Raise a UserError where something listens on a port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            option = f"--{name.lower()}-port"
            raise UserError(
                f"port {port} for {name} is taken on {HOST}: stop what listens there, or choose "
                f"another with {option}"
            ) from None


def answers(url: str) -> bool:
    """Return whether a server answers a health check."""
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as reply:
        return bool(reply.status == 200)
    return False


def wait_healthy(service: Service, url: str, say: Callable[[str], None]) -> None:
    """Wait until a service answers.

    Raises:
        UserError: It ended, or did not answer in time; the sentence names its log.
    """
    end = time.monotonic() + HEALTHY_SECONDS
    while not answers(url):
        if service.process.poll() is not None:
            raise UserError(f"{service.name} ended at its start: see {service.log}")
        if time.monotonic() > end:
            raise UserError(
                f"{service.name} did not answer within {HEALTHY_SECONDS:.0f} s: see {service.log}"
            )
        time.sleep(0.3)
    say(f"{service.name} answers at {url.removesuffix('/health')}")


def start_service(
    name: str, command: tuple[str, ...], log: Path, environment: Mapping[str, str]
) -> Service:
    """Start `python -m COMMAND` so that it ends with this process, however that ends."""
    alive = [sys.executable, "-m", "rsgrpo.lifeline", "--group", str(os.getpid())]
    process = start_process([*alive, sys.executable, "-m", *command], log, environment)
    return Service(name, command, process, log)


def keep_running(
    running: list[Service], environment: Mapping[str, str], say: Callable[[str], None]
) -> None:
    """Start every service again that ends, until Ctrl-C: what it served goes on meanwhile."""
    pause = 1.0  # longer while one ends again and again
    while True:
        for place, service in enumerate(running):
            if service.process.poll() is not None:
                log = service.log.with_suffix(f".{time.strftime('%Y%m%d-%H%M%S')}.log")
                say(f"{service.name} ended with status {service.process.returncode}, log {log}")
                with suppress(FileNotFoundError):
                    service.log.replace(log)
                end_process(service.process)  # what it left in its process group
                running[place] = start_service(
                    service.name, service.command, service.log, environment
                )
                say(f"{service.name} is started again")
                pause = min(2 * pause, 60.0)
        time.sleep(pause)
        pause = max(pause / 1.1, 1.0)
