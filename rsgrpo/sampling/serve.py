"""Servers of a policy on this machine: vLLM, in an environment of its own, that ends with us.

What is asked of it is asked over HTTP (`server.py`).
"""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from rsgrpo.errors import UserError
from rsgrpo.processes import end_processes
from rsgrpo.sampling.vllm import (
    HOST,
    device_shares,
    memory_arguments,
    model_name,
    own_dtype,
    reason_of,
    refuse_arguments,
    server_command,
    server_environment,
    visible_devices,
    vllm_python,
)

STOP_SECONDS = 10.0

Report = Callable[[float], None]


class Server(NamedTuple):
    """One running server: its address, its process, the file that takes what it says."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


class Servers(NamedTuple):
    """The running servers of one policy."""

    replicas: tuple[Server, ...]

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, as `ServingConfig.urls` takes them."""
        return tuple(server.url for server in self.replicas)


@contextmanager
def serving(
    model: str | Path,
    *,
    port: int | None = None,
    replicas: int = 1,
    python: Path | None = None,
    dtype: str = "auto",
    extra: Sequence[str] = (),
    patience: float = 1800.0,
    report: Report | None = None,
) -> Iterator[Servers]:
    """Serve a policy while the body runs: vLLM on 127.0.0.1, without usage statistics.

    The servers stop with the body, and with this process however it ends.

    Args:
        model: A policy directory or a hub id.
        port: The first server's port, the others' follow; None for any that are free.
        replicas: Servers; with GPUs each has its own, or as many as it gets an equal share of.
        python: The interpreter that has vLLM; by default the one of the folder `RSGRPO_VLLM`, or
            of `.venv-vllm` in the checkout.
        dtype: `float32`, `bfloat16` and so on; `auto` for the checkpoint's own.
        extra: More arguments of vLLM, such as `--max-model-len 4096`.
        patience: Seconds that the servers have to become ready.
        report: Called with the seconds waited, about once a second, until they are ready.

    Raises:
        UserError: The policy, the environment or a port is not to be had, an argument is refused,
            or a server ended or was not ready in time.
    """
    name = model_name(model)
    interpreter = vllm_python(python)
    refuse_arguments(extra)
    ports = _free_ports(replicas) if port is None else _ports(port, replicas)
    dtype = own_dtype(name, dtype)
    shares = device_shares(visible_devices(), replicas)
    logs = Path(tempfile.mkdtemp(prefix="rsgrpo-serve-"))
    running: list[Server] = []
    try:
        for chosen, devices in zip(ports, shares, strict=True):
            arguments = [*memory_arguments(shares, extra), *extra]
            command = server_command(interpreter, name, chosen, dtype, arguments)
            running.append(_start(command, chosen, logs, server_environment(name, devices)))
        _await_health(running, patience, report)
        yield Servers(tuple(running))
    finally:
        end_processes([server.process for server in running], STOP_SECONDS)
        if not isinstance(sys.exc_info()[1], UserError):  # whose sentence names a log
            shutil.rmtree(logs, ignore_errors=True)


def watch(servers: Servers, warn: Callable[[str], None]) -> None:
    """Wait until the last of the servers ends; the others go on without one that does.

    Args:
        servers: What `serving` gave.
        warn: Called with a sentence for each server that ends.

    Raises:
        UserError: The last one has ended.
    """
    left = list(servers.replicas)
    while True:
        for server in [server for server in left if server.process.poll() is not None]:
            left.remove(server)
            sentence = _end_sentence(server, "while it served")
            if not left:
                raise UserError(sentence)
            warn(sentence)
        time.sleep(0.2)


def _ports(first: int, replicas: int) -> list[int]:
    ports = list(range(first, first + replicas))
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError) as fault:
                raise UserError(
                    f"port {port} cannot be had ({fault}): name another with --port"
                ) from None
    return ports


def _free_ports(replicas: int) -> list[int]:
    with ExitStack() as held:  # all at once, so that none is found twice
        probes = [held.enter_context(socket.socket()) for _ in range(replicas)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _start(command: Sequence[str], port: int, logs: Path, environment: dict[str, str]) -> Server:
    log = logs / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return Server(f"http://{HOST}:{port}", process, log)


def _await_health(servers: Sequence[Server], patience: float, report: Report | None) -> None:
    began = time.monotonic()
    waiting = list(servers)
    while waiting:
        waiting = [server for server in waiting if not _is_healthy(server)]
        for server in servers:
            if server.process.poll() is not None:
                raise UserError(_end_sentence(server, "at its start"))
        waited = time.monotonic() - began
        if waiting and waited > patience:
            raise UserError(
                f"the server at {waiting[0].url} was not ready after {patience:.0f} s (log "
                f"{waiting[0].log}): give it more time with --wait"
            )
        if report:
            report(waited)
        time.sleep(0.5 if waiting else 0.0)


def _is_healthy(server: Server) -> bool:
    open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    try:
        with open_url(f"{server.url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _end_sentence(server: Server, when: str) -> str:
    reason = reason_of(server.log.read_text(encoding="utf-8", errors="replace"))
    return f"the server at {server.url} ended {when} ({reason}): see its log {server.log}"
