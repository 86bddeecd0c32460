"""SIGTERM in training: a checkpoint is saved, and the resumed run is the undisturbed one."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from rsgrpo.config import Config, load_config
from rsgrpo.errors import UserError
from rsgrpo.launch import Launch
from rsgrpo.nodes import Node
from rsgrpo.processes import Child, end_stage, run_nodes, start_stage
from rsgrpo.stages import find, run
from rsgrpo.study import base_policy, run_identity, trained_run
from rsgrpo.tracking.spool import read_spool
from rsgrpo.training.stopping import Stopping
from rsgrpo.training.train import train
from tests.conftest import TINY

# What a clock gives differs between any two runs.
CLOCKED = {"tokens_per_second", "step_time"}


def train_into(out: Path, config: Config, base: tuple[Path, Path]) -> None:
    out.mkdir(exist_ok=True)
    train(config, data=base[0], policy=base[1], identity=run_identity(config), out=out)


def recorded(out: Path) -> list[tuple[int, dict[str, float]]]:
    """Every metric of the run that no clock and no machine decides, in the order of writing."""
    return [
        (record["step"], {k: v for k, v in record["values"].items() if _is_repeated(k)})
        for record in read_spool(out / "spool.jsonl")
        if record["kind"] == "metrics"
    ]


def _is_repeated(metric: str) -> bool:
    return metric not in CLOCKED and not metric.startswith("system/")


def endings(out: Path) -> list[str]:
    return [r["status"] for r in read_spool(out / "spool.jsonl") if r["kind"] == "end"]


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def checkpoints(out: Path) -> set[str]:
    return {folder.name for folder in (out / ".work").glob("checkpoint-*")}


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def base(tiny_config: Config, tiny_root: Path) -> tuple[Path, Path]:
    """Prepared data and base policy."""
    policy = base_policy(tiny_config)
    assert isinstance(policy, Node) and isinstance(policy.inputs["data"], Node)
    trained = run(tiny_root, policy)
    return run(tiny_root, policy.inputs["data"]), trained


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Config, base: tuple[Path, Path]
) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("whole")
    train_into(out, tiny_config, base)
    return out


def when(monkeypatch: pytest.MonkeyPatch, event: str, step: int, act: Callable[[], None]) -> None:
    """Do something once, at a callback's event after `step` optimizer steps."""
    handle = getattr(Stopping, event)
    done: list[bool] = []

    def then(self: Any, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        handle(self, args, state, *rest, **more)
        if state.global_step == step and not done:
            done.append(True)
            act()

    monkeypatch.setattr(Stopping, event, then)


@pytest.mark.parametrize(
    ("event", "step", "saved"),
    [
        ("on_pre_optimizer_step", 2, 4),  # the updates of a step are finished
        ("on_pre_optimizer_step", 5, 6),
        ("on_step_begin", 2, 2),  # a generation is left, its step's beginning saved
        ("on_step_begin", 4, 4),
        ("on_step_begin", 3, 4),  # between two updates
    ],
)
def test_a_stopped_run_goes_on_to_the_same_weights_and_metrics(
    tmp_path: Path,
    tiny_config: Config,
    base: tuple[Path, Path],
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    event: str,
    step: int,
    saved: int,
) -> None:
    config = tiny_config.model_copy(
        update={"training": tiny_config.training.model_copy(update={"save_every": 100})}
    )
    with monkeypatch.context() as patched:
        when(patched, event, step, ask_to_stop)
        with pytest.raises(SystemExit) as end:
            train_into(tmp_path / "cut", config, base)
    assert end.value.code == 143
    assert checkpoints(tmp_path / "cut") == {f"checkpoint-{saved}"}
    assert f"stopped at step {saved // 2} of 4; the same command" in capsys.readouterr().err
    assert endings(tmp_path / "cut") == ["KILLED"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train_into(tmp_path / "cut", config, base)
    assert weights(tmp_path / "cut") == weights(whole)
    assert recorded(tmp_path / "cut") == recorded(whole)
    assert endings(tmp_path / "cut") == ["KILLED", "FINISHED"]


def test_a_signal_before_the_first_step_just_ends_the_run(
    tmp_path: Path, tiny_config: Config, base: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    when(monkeypatch, "on_step_begin", 0, ask_to_stop)
    with pytest.raises(SystemExit):
        train_into(tmp_path / "cut", tiny_config, base)
    assert checkpoints(tmp_path / "cut") == set()
    assert endings(tmp_path / "cut") == ["KILLED"]


def test_a_generation_of_30_seconds_is_left_at_once(
    tmp_path: Path,
    tiny_config: Config,
    base: tuple[Path, Path],
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rsgrpo.training.trainer import RSGRPOTrainer

    generate = RSGRPOTrainer._generate_single_turn
    pressed: list[float] = []

    def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        generated = generate(self, *args, **kwargs)  # so that tokens are drawn and counted
        if self.state.global_step == 4:
            pressed.append(time.monotonic())
            ask_to_stop()
            time.sleep(30)
        return generated

    with monkeypatch.context() as patched:
        patched.setattr(RSGRPOTrainer, "_generate_single_turn", slow)
        with pytest.raises(SystemExit):
            train_into(tmp_path / "cut", tiny_config, base)
    assert time.monotonic() - pressed[0] < 10
    train_into(tmp_path / "cut", tiny_config, base)
    assert weights(tmp_path / "cut") == weights(whole)
    assert recorded(tmp_path / "cut") == recorded(whole)


def test_only_as_many_checkpoints_are_kept_as_asked_for(
    tmp_path: Path, base: tuple[Path, Path]
) -> None:
    config = load_config(None, [*TINY, "training.save_every=1", "training.save_total_limit=3"])
    train_into(tmp_path / "run", config, base)
    assert checkpoints(tmp_path / "run") == {"checkpoint-4", "checkpoint-6", "checkpoint-8"}


def wait_until(condition: Callable[[], bool], child: Child, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert child.process.poll() is None, child.log.read_text()[-3000:]
        assert time.monotonic() < end, child.log.read_text()[-3000:]
        time.sleep(0.02)


def stop(child: Child) -> float:
    """End a stage in the middle; return the seconds it took."""
    family = psutil.Process(child.process.pid).children(recursive=True)
    began = time.monotonic()
    end_stage(child)
    seconds = time.monotonic() - began
    _, alive = psutil.wait_procs(family, timeout=2)
    assert not alive
    return seconds


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "processes"),
    [("python", 1), ("torchrun", 2), ("accelerate", 2), ("accelerate", 1)],
)
def test_a_launched_training_saves_ends_with_all_ranks_and_goes_on(
    tmp_path: Path, tiny_root: Path, base: tuple[Path, Path], launcher: str, processes: int
) -> None:
    config = load_config(
        None,
        [*TINY, "training.steps=40", "training.save_every=100", f"training.processes={processes}"],
    )
    nodes = []
    for name in ("whole", "cut"):
        node = trained_run(config, base_policy(config)).training
        assert node is not None
        inputs = {"data": base[0], "policy": base[1]}
        nodes.append(node._replace(name=f"{launcher}{processes}-{name}", inputs=inputs))
    launch = Launch(sys.executable, launcher)
    child = start_stage(tiny_root, nodes[1], launch)
    folder = tiny_root / "train"
    wait_until(lambda: any(folder.glob(f"{nodes[1].name}-*/spool.jsonl")), child)
    [out] = folder.glob(f"{nodes[1].name}-*")
    wait_until(lambda: len(recorded(out)) > 2, child)
    assert stop(child) < 10
    [checkpoint] = checkpoints(out)
    assert checkpoint != "checkpoint-80" and find(tiny_root, nodes[1]) is None
    assert "the same command goes on from there" in child.log.read_text()
    assert endings(out) == ["KILLED"]
    run_nodes(tiny_root, nodes, 1, lambda _: None, launch=launch)
    finished = [find(tiny_root, node) for node in nodes]
    assert finished[0] and finished[1] == out
    assert weights(finished[0]) == weights(out)
    assert recorded(finished[0]) == recorded(out)
    assert len(recorded(out)) == 40
    if processes > 1:
        assert any(finished[0].parent.glob("*")) and not (out / ".work").exists()


@pytest.mark.slow
def test_a_launched_training_comes_before_the_evaluation_that_needs_it(
    tiny_root: Path, base: tuple[Path, Path]
) -> None:
    config = load_config(None, [*TINY, "training.processes=2", "training.seed=5"])
    planned = trained_run(config, base_policy(config))
    run_nodes(
        tiny_root, [planned.score], 1, lambda _: None, launch=Launch(sys.executable, "torchrun")
    )
    assert planned.training and find(tiny_root, planned.training) and find(tiny_root, planned.score)
    logs = {log.name for log in (tiny_root / "logs").glob(f"{planned.name}-*.log")}
    assert logs == {f"{planned.name}-train-1.log", f"{planned.name}-score-1.log"}


@pytest.mark.slow
def test_ranks_die_with_a_killed_launcher(
    tmp_path: Path, tiny_root: Path, base: tuple[Path, Path]
) -> None:
    config = load_config(None, [*TINY, "training.steps=400", "training.processes=2"])
    node = trained_run(config, base_policy(config)).training
    assert node is not None
    node = node._replace(inputs={"data": base[0], "policy": base[1]})
    child = start_stage(tiny_root, node, Launch(sys.executable, "torchrun"))
    agent = psutil.Process(child.process.pid)
    wait_until(lambda: len(agent.children()) == 2, child)
    wait_until(lambda: "training: step" in child.log.read_text(), child)
    ranks = agent.children(recursive=True)
    agent.kill()
    _, alive = psutil.wait_procs(ranks, timeout=5)
    assert not alive
    child.process.wait()


def test_another_number_of_processes_than_the_config_says_is_refused(
    tmp_path: Path, base: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(None, [*TINY, "training.processes=2"])
    with pytest.raises(UserError, match="WORLD_SIZE is 1: start 2 with"):
        train_into(tmp_path / "run", config, base)
