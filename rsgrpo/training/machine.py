"""What the machine does while a policy is trained, under the names of MLflow's system metrics.

Asked for now and then by the process that trains: no thread and no network.
"""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch

MEGABYTE = 1e6


class MachineWatch:
    """Gives the machine's figures at most every few seconds."""

    def __init__(self, every_seconds: float = 10.0) -> None:
        """Begin to count the processors' work; the first figures are given at once."""
        self.every_seconds = every_seconds
        self._process = psutil.Process()
        self._given: float | None = None
        psutil.cpu_percent()

    def figures(self) -> dict[str, float]:
        """Return percentages and megabytes (10^6 bytes); nothing where it is too early."""
        now = time.monotonic()
        if self._given is not None and now - self._given < self.every_seconds:
            return {}
        self._given = now
        memory = psutil.virtual_memory()
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system/system_memory_usage_percentage": memory.used / memory.total * 100,
            "system/process_memory_usage_megabytes": self._process.memory_info().rss / MEGABYTE,
            **_gpu_figures(),
        }


def _gpu_figures() -> dict[str, float]:
    """Return the figures of the device that this process trains on.

    Others are left alone: to ask for their memory would begin a context on each of them.
    """
    if not torch.cuda.is_available():
        return {}
    device = torch.cuda.current_device()
    free, whole = torch.cuda.mem_get_info(device)
    figures = {
        f"system/gpu_{device}_memory_usage_megabytes": (whole - free) / MEGABYTE,
        f"system/gpu_{device}_memory_usage_percentage": (whole - free) / whole * 100,
    }
    if (busy := _utilization(device)) is not None:
        figures[f"system/gpu_{device}_utilization_percentage"] = busy
    return figures


def _utilization(device: int) -> float | None:
    """Return how busy a device is in percent; None where NVIDIA's library cannot say."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    refusal: Any = pynvml.NVMLError
    try:
        return float(torch.cuda.utilization(device))
    except (RuntimeError, ModuleNotFoundError, refusal):
        return None
