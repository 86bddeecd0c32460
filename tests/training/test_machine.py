from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from transformers import TrainerState

from rsgrpo.tracking.spool import Spool, read_spool
from rsgrpo.training import machine
from rsgrpo.training.callbacks import SpoolCallback
from rsgrpo.training.machine import MachineWatch

OF_EVERY_MACHINE = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/system_memory_usage_percentage",
    "system/process_memory_usage_megabytes",
}


def test_the_names_are_those_of_mlflows_own_monitor() -> None:
    """Its page of system metrics shows what begins with `system/`."""
    pytest.importorskip("mlflow")
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

    monitor = CPUMonitor()
    monitor.collect_metrics()
    theirs = {f"system/{name}" for name in monitor.aggregate_metrics()}
    assert theirs == OF_EVERY_MACHINE - {"system/process_memory_usage_megabytes"}


def test_figures_are_percentages_and_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    figures = MachineWatch().figures()
    assert figures.keys() == OF_EVERY_MACHINE
    assert 0 <= figures["system/cpu_utilization_percentage"] <= 100
    assert 0 < figures["system/system_memory_usage_percentage"] <= 100
    own, whole = (
        figures[f"system/{name}_memory_usage_megabytes"] for name in ("process", "system")
    )
    assert 10 < own < 100_000 and whole > 10


def test_steps_have_figures_at_most_every_ten_seconds_in_the_record_of_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(machine, "time", clock)
    with Spool(tmp_path / "spool.jsonl", "r") as spool:
        callback = SpoolCallback(spool, updates_per_step=2)
        for step, second in enumerate([0.0, 4.0, 9.9, 10.0, 15.0, 21.0], 1):
            now[0] = 1000.0 + second
            state = TrainerState(global_step=2 * step)
            callback.on_log(None, state, None, {"loss": 0.5})
        callback.on_log(None, state, None, {"train_runtime": 1.0})
    records = list(read_spool(spool.path))
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    with_figures = [
        r["step"] for r in records if "system/cpu_utilization_percentage" in r["values"]
    ]
    assert with_figures == [1, 4, 6]
    assert all(record["time"] > 1_600_000_000_000 for record in records)


def show_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * 10**9, 80 * 10**9))


def test_a_gpu_without_nvidias_library_has_memory_and_no_utilization(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show_gpu(monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    figures = MachineWatch().figures()
    assert {name: value for name, value in figures.items() if "gpu" in name} == {
        "system/gpu_1_memory_usage_megabytes": 20_000.0,
        "system/gpu_1_memory_usage_percentage": 25.0,
    }


@pytest.mark.parametrize(("answer", "expected"), [(83, 83.0), ("refused", None), ("gone", None)])
def test_a_gpu_says_how_busy_it_is_where_it_can(
    answer: object, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NVMLError(Exception):
        pass

    def utilization(device: int) -> object:
        if answer == "refused":
            raise NVMLError("not supported")
        if answer == "gone":
            raise RuntimeError("the driver cannot be loaded")
        return answer

    show_gpu(monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", types.SimpleNamespace(NVMLError=NVMLError))
    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    figures = MachineWatch().figures()
    assert figures.get("system/gpu_1_utilization_percentage") == expected
