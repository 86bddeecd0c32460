"""What a sweep costs on top of its trials, here and through workers, part by part.

The bare trial is the same stages in one process that is started for them. Everything runs on the
embedded policy at a tiny size, one unit at a time, so that what is left is orchestration.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from flows.services import service_environment, services
from flows.sweep_runs import run_opened
from rsgrpo.config import Config, load_config
from rsgrpo.nodes import node_to_json
from rsgrpo.stages import run as run_stages
from rsgrpo.study import base_policy, trained_run
from rsgrpo.worker import TABLE, Execution
from sweeps import run as engine
from sweeps.config import Objective, Parameter, SweepConfig
from sweeps.space import Sweep
from sweeps.storage import default_storage
from sweeps.study import Opened, create

TRIALS = 3
TARGETS = {"here": 8.0, "deployments": 15.0}
SIZES = [
    "data.prompts_per_tier=2",
    "data.pool_per_tier=8",
    "policy.hidden_size=16",
    "policy.layers=1",
    "policy.heads=2",
    "policy.mlp_size=32",
    "policy.pretrain.steps=60",
    "training.steps=4",
    "training.prompts_per_step=8",
    "training.num_generations=8",
    "sampling.n=16",
    "evaluation.ks=[1,2,4]",
    "evaluation.headline_k=4",
    "evaluation.resamples=200",
]


def run() -> list[str]:
    """Return what each way of running costs above the bare trial, and where it goes."""
    with tempfile.TemporaryDirectory() as folder, _table(Path(folder)):
        root = Path(folder) / "out"
        config = load_config(None, SIZES)
        run_stages(root, base_policy(config))  # type: ignore[arg-type]
        lines = _lines("here", root, config, 10.0)
        with _workers(Path(folder)):
            lines += _lines("deployments", root, config, 20.0)
    return lines


def _bare(root: Path, config: Config, beta: float) -> float:
    """Return the seconds of a process that runs all stages of a trial."""
    training = config.training.model_copy(update={"risk_beta": beta})
    config = config.model_copy(update={"training": training})
    node = trained_run(config, base_policy(config)).score
    file = root / f"bare-{beta}.node.json"
    file.write_text(node_to_json(node), encoding="utf-8")
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "rsgrpo.stages", str(root), str(file)],
        check=True,
        capture_output=True,
    )
    return time.monotonic() - began


def _lines(units: str, root: Path, config: Config, first: float) -> list[str]:
    betas = tuple(first + beta for beta in range(TRIALS))
    sweep = SweepConfig(
        space={"training.risk_beta": Parameter(values=betas)},
        objectives=(Objective(metric="pass_at_1"),),
    )
    opened = create(Sweep(config, sweep), default_storage(root), f"bench-{units}", root)
    execution = Execution.model_validate({"units": units, "at_once": 1})
    before = _bare(root, config, first + 0.25)
    with _counted() as spent:
        began = time.monotonic()
        result = run_opened(opened, execution, lambda line: None)
        total = time.monotonic() - began
    assert result.ending == "complete", result
    # before and after, so that a machine whose speed drifts treats both alike
    bare = mean((before, _bare(root, config, first + 0.75)))
    above = total / TRIALS - bare
    parts = _parts(units, opened, spent, total, bare)
    text = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
    return [
        f"orchestration: {units} a trial costs {above:.1f} s above the bare one of {bare:.1f} s "
        f"(target <= {TARGETS[units]:g} s), mean of {TRIALS}: {text}"
    ]


def _parts(
    units: str, opened: Opened, spent: dict[str, float], total: float, bare: float
) -> dict[str, float]:
    """Return seconds a trial of each part; what the ledger knows tells the processes' apart."""
    attempts = opened.ledger.attempts()
    held = mean(one.ended - one.began for one in attempts)
    loop = spent["run_sweep"] / TRIALS
    asked_and_told = {
        "claim and ask": spent["claim"] / TRIALS,
        "told and recorded": spent["tell"] / TRIALS,
    }
    way = _way_to_the_flow(opened.name) if units == "deployments" else {}
    known = sum(asked_and_told.values()) + sum(way.values())
    since = "then" if way else "from dispatch"
    return {
        **asked_and_told,
        **way,
        f"{since} to its process at work, and from its end to the poll that sees it": loop
        - held
        - known,
        "the unit's process above the bare one": held - bare,
        "MLflow shipping beside and after": total / TRIALS - loop,
    }


def _way_to_the_flow(study: str) -> dict[str, float]:
    """Return the seconds until a worker has seen a flow run, and from then until its flow runs."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    wanted = FlowRunFilter(name=FlowRunFilterName(like_=f"{study} trial"))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=wanted)
        histories = [client.read_flow_run_states(run.id) for run in runs]
    first = [
        {state.type.value: state.timestamp.timestamp() for state in reversed(history)}
        for history in histories
    ]
    return {
        "a worker's poll": mean(one["PENDING"] - one["SCHEDULED"] for one in first),
        "flow process and its imports": mean(one["RUNNING"] - one["PENDING"] for one in first),
    }


@contextmanager
def _counted() -> Iterator[dict[str, float]]:
    """Count the seconds of the engine's parts while the body runs."""
    spent: defaultdict[str, float] = defaultdict(float)
    import flows.sweep_runs as runs

    patched: list[tuple[Any, str, str]] = [
        (engine, "claim", "claim"),
        (engine.Coordinator, "_tell", "tell"),
        (runs, "run_sweep", "run_sweep"),
    ]
    before = [getattr(owner, name) for owner, name, _ in patched]
    for (owner, name, part), function in zip(patched, before, strict=True):
        setattr(owner, name, _counting(function, spent, part))
    try:
        yield spent
    finally:
        for (owner, name, _), function in zip(patched, before, strict=True):
            setattr(owner, name, function)


def _counting(function: Callable[..., Any], spent: dict[str, float], part: str) -> Any:
    def counted(*args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            spent[part] += time.monotonic() - began

    return counted


@contextmanager
def _table(folder: Path) -> Iterator[None]:
    file = folder / "worker.yaml"
    file.write_text(yaml.safe_dump({"roots": {"default": str(folder / "out")}}), encoding="utf-8")
    before = dict(os.environ)
    os.environ[TABLE] = str(file)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _workers(folder: Path) -> Iterator[None]:
    """Start Prefect, MLflow and one worker, and deploy the flows."""
    import socket

    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    with services(folder / "services", 1, *ports, lambda line: None) as (at, _):
        os.environ.update(service_environment(folder / "services", at))
        os.environ["PREFECT_HOME"] = str(folder / "client")
        deploy = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        subprocess.run(deploy, check=True, capture_output=True)
        yield
