"""Running stages in processes of their own: a few at a time, one thread each, ended as a group.

A child prints its progress as lines like `training: step 12 of 100` to its log; the time left is
read off them. A child dies with its parent, and takes its own children along.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from rsgrpo.errors import UserError
from rsgrpo.launch import Launch, stage_command
from rsgrpo.nodes import Node, node_to_json, upstream_nodes
from rsgrpo.stages import REFUSED, disk_is_full, find

# Training that is asked to stop saves a checkpoint first; every other stage ends at once.
STOP_SECONDS = 9.0

# Seconds of each stage of the embedded study on one quiet core: weights of the progress line only.
STAGE_SECONDS = {
    "prepare": 1,
    "pretrain": 45,
    "train": 30,
    "sample": 12,
    "grade": 2,
    "grade_rollouts": 2,
    "score": 2,
    "analyse": 8,
}
DEFAULT_LAUNCH = Launch()
_PROGRESS = re.compile(r"^(pre-training|training|sampling|grading): \D*(\d+) of (\d+)", re.M)
_STAGE_OF = {
    "pre-training": "pretrain",
    "training": "train",
    "sampling": "sample",
    "grading": "grade",
}


class Progress(NamedTuple):
    """How far a set of nodes is: what runs, and about how many seconds are left."""

    running: tuple[str, ...]
    seconds_left: float


class Child(NamedTuple):
    """A running node, and the one that is asked for when it is done."""

    node: Node
    process: subprocess.Popen[bytes]
    log: Path
    then: Node | None = None


class GoneError(UserError):
    """A stage's process ended without saying what the user can mend: it was killed, or broke."""


def run_nodes(
    root: Path,
    nodes: Sequence[Node],
    workers: int,
    report: Callable[[Progress], None],
    later: Sequence[Node] = (),
    launch: Launch = DEFAULT_LAUNCH,
) -> None:
    """Run each node, with what it needs, in a process of its own, `workers` at a time.

    Nodes that are finished start nothing. A training that a launcher must start is a process of its
    own before the node that needs it. Where one fails the others are stopped; what they have done
    is kept.

    Args:
        root: The folder of all stages' folders.
        nodes: What to finish; nodes that share unfinished inputs must not be run together.
        workers: Processes at a time.
        report: Called a few times a second.
        later: What will be asked for next: it counts towards the time left.
        launch: The interpreter of every stage, and the launcher of training.

    Raises:
        UserError: A node failed; the sentence is its own, with its log's path.
    """
    waiting = [node for node in nodes if find(root, node) is None]
    clock = _Clock(root, waiting, later, workers)
    with _children() as running:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_start_next(root, waiting.pop(0), launch))
            time.sleep(0.2)
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                check(child)
                waiting[:0] = [child.then] if child.then else []
            report(clock.progress(running, waiting))


def thread_environment() -> dict[str, str]:
    """Return the environment of a child: one thread, no telemetry."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }


def start_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, its output going to a log.

    Args:
        command: The command line.
        log: The file that takes its output.
        environment: What is added to a child's environment.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**thread_environment(), **(environment or {})},
            start_new_session=True,
        )


def end_processes(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> None:
    """End several processes and their groups at once, politely for `grace` seconds in all."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
        _signal_group(process, signal.SIGCONT)  # one that is held hears nothing
    end = time.monotonic() + grace
    for process in processes:
        # once only: a second signal would cut short the launcher that waits for its ranks
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(end - time.monotonic(), 0.0))
        _signal_group(process, signal.SIGKILL)
        process.wait()


def end_process(process: subprocess.Popen[bytes], grace: float = 2.0) -> None:
    """End a process and all of its group, politely for `grace` seconds."""
    end_processes([process], grace)


@contextmanager
def _children() -> Iterator[list[Child]]:
    running: list[Child] = []
    try:
        yield running
    finally:
        end_processes([child.process for child in running], STOP_SECONDS)


def start_stage(
    root: Path, node: Node, launch: Launch = DEFAULT_LAUNCH, wait: bool = False
) -> Child:
    """Start a node, with what it needs, in a process of its own that ends with this one.

    Args:
        root: The folder of all stages' folders; the node and the process's log go to `logs` in it.
        node: What to run. Training alone goes through the launcher, in as many ranks as its config
            says; with several, its inputs must be finished.
        launch: Interpreter and launcher.
        wait: Wait where another process runs the same stage, rather than refuse.

    Raises:
        UserError: The launcher is unknown, or cannot start that many processes.
    """
    trains = node.stage == "train"
    chosen = launch if trains else launch._replace(launcher="python")
    processes = node.config.training.processes if trains else 1
    log = _fresh_log(root / "logs", node)
    node_file = log.with_suffix(".node.json")
    command = stage_command(root, node_file, chosen, processes, os.getpid(), wait)
    node_file.write_text(node_to_json(node), encoding="utf-8")
    return Child(node, start_process(command, log), log)


def end_stage(child: Child) -> None:
    """End a stage's process and all of its group; training saves a checkpoint first."""
    end_process(child.process, STOP_SECONDS)


def _fresh_log(folder: Path, node: Node) -> Path:
    """Claim a log of its own for each attempt: two processes may ask for the same node."""
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in count(1):
        log = folder / f"{node.name}-{node.stage}-{attempt}.log"
        with suppress(FileExistsError):
            log.touch(exist_ok=False)
            break
    return log


def _start_next(root: Path, node: Node, launch: Launch) -> Child:
    """Start a node, or before it the training that needs a launcher."""
    training = _launched_first(root, node, launch)
    if training is None or training is node:
        return start_stage(root, node, launch)
    return start_stage(root, training, launch)._replace(then=node)


def _launched_first(root: Path, node: Node, launch: Launch) -> Node | None:
    """Return the unfinished training that a node needs and that a launcher must start."""
    if find(root, node):
        return None
    if node.stage == "train" and (launch.launcher, node.config.training.processes) != ("python", 1):
        return node
    needed = (_launched_first(root, upstream, launch) for upstream in upstream_nodes(node))
    return next((training for training in needed if training), None)


def check(child: Child) -> None:
    """Raise what a process that has ended says went wrong.

    Raises:
        UserError: It failed; the sentence is its own, with its log's path.
        GoneError: It was killed, or broke.
        OSError: The disk is full.
    """
    status = child.process.returncode
    if status == 0:
        return
    if disk_is_full(child.log.parent):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(child.log.parent.parent))
    lines = child.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    # a launcher has its own last words and its own status
    refusals = [line for line in lines if line.startswith(REFUSED)]
    if refusals:
        last = refusals[-1].removeprefix(REFUSED)
        raise UserError(f"{last} (stage of {child.node.name}, log {child.log})")
    raise GoneError(
        f"the process of {child.node.name} ended with status {status} ({last}): see its log "
        f"{child.log}, then run the same command again; what is finished is kept"
    )


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


class _Clock:
    """Weighs what is done, and from its rate what is left."""

    def __init__(
        self, root: Path, nodes: Sequence[Node], later: Sequence[Node], workers: int
    ) -> None:
        counted: set[tuple[str, str]] = set()
        self._weights = {node.name: _unfinished(root, node, counted) for node in nodes}
        self._later = sum(_unfinished(root, node, counted) for node in later)
        self._total = sum(self._weights.values()) + self._later
        self._workers = workers
        self._began = time.monotonic()

    def progress(self, running: Sequence[Child], waiting: Sequence[Node]) -> Progress:
        now = sum(self._weights[node.name] for node in waiting)
        now += sum(self._weights[child.node.name] - _weight_done(child) for child in running)
        done = self._total - self._later - now
        elapsed = time.monotonic() - self._began
        speed = done / elapsed / max(len(running), 1) if done > 5 else 1.0
        side_by_side = min(len(running) + len(waiting), self._workers) or 1
        left = (now / side_by_side + self._later / self._workers) / speed
        names = tuple(child.node.name for child in running)
        return Progress(names, left)


def _unfinished(root: Path, node: Node, counted: set[tuple[str, str]]) -> float:
    """Return the weight of a node and what it needs, each counted once over all calls."""
    if (node.stage, node.name) in counted or find(root, node):
        return 0.0
    counted.add((node.stage, node.name))
    needed = sum(_unfinished(root, upstream, counted) for upstream in upstream_nodes(node))
    return STAGE_SECONDS[node.stage] + needed


def share_done(child: Child) -> float:
    """Return how much of its node's own stage a child has done, in [0, 1]."""
    text = child.log.read_text(encoding="utf-8", errors="replace")
    lines = _PROGRESS.findall(text)
    own = [int(done) / int(n) for name, done, n in lines if _STAGE_OF[name] == child.node.stage]
    return min(own[-1], 1.0) if own else 0.0


def last_progress(child: Child) -> str:
    """Return what a child says of its progress last, `training 40%`; its stage before it has."""
    text = child.log.read_text(encoding="utf-8", errors="replace")
    lines = _PROGRESS.findall(text)
    if not lines:
        return child.node.stage
    name, done, total = lines[-1]
    return f"{name} {min(int(done) / int(total), 1.0):.0%}"


def _weight_done(child: Child) -> float:
    """Return the weight of a child's work so far, by the progress lines in its log."""
    text = child.log.read_text(encoding="utf-8", errors="replace")
    shares = {name: int(done) / int(total) for name, done, total in _PROGRESS.findall(text)}
    return sum(STAGE_SECONDS[_STAGE_OF[name]] * share for name, share in shares.items())
