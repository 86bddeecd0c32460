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
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from rsgrpo.errors import UserError
from rsgrpo.stages import Node, disk_is_full, find, node_to_json, upstream_nodes

# Seconds of each stage of the embedded study on one quiet core: weights of the progress line only.
STAGE_SECONDS = {
    "prepare": 1,
    "pretrain": 45,
    "train": 30,
    "sample": 12,
    "grade": 2,
    "score": 2,
    "analyse": 8,
}
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
    """A running node."""

    node: Node
    process: subprocess.Popen[bytes]
    log: Path


def run_nodes(
    root: Path,
    nodes: Sequence[Node],
    workers: int,
    report: Callable[[Progress], None],
    later: Sequence[Node] = (),
) -> None:
    """Run each node, with what it needs, in a process of its own, `workers` at a time.

    Nodes that are finished start nothing. Where one fails the others are stopped; what they have
    done is kept.

    Args:
        root: The folder of all stages' folders.
        nodes: What to finish; nodes that share unfinished inputs must not be run together.
        workers: Processes at a time.
        report: Called a few times a second.
        later: What will be asked for next: it counts towards the time left.

    Raises:
        UserError: A node failed; the sentence is its own, with its log's path.
    """
    waiting = [node for node in nodes if find(root, node) is None]
    clock = _Clock(root, waiting, later, workers)
    with _children() as running:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_start(root, waiting.pop(0)))
            time.sleep(0.2)
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                _check(child)
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


def start_process(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, its output going to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=thread_environment(),
            start_new_session=True,
        )


def end_process(process: subprocess.Popen[bytes], grace: float = 2.0) -> None:
    """End a process and all of its group, politely for `grace` seconds."""
    _signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    _signal_group(process, signal.SIGKILL)
    process.wait()


@contextmanager
def _children() -> Iterator[list[Child]]:
    running: list[Child] = []
    try:
        yield running
    finally:
        for child in running:
            _signal_group(child.process, signal.SIGTERM)
        for child in running:
            end_process(child.process)


def _start(root: Path, node: Node) -> Child:
    log = root / "logs" / f"{node.name}.log"
    process = start_process(
        [sys.executable, "-m", "rsgrpo.stages", str(root), str(os.getpid())], log
    )
    assert process.stdin is not None
    process.stdin.write(node_to_json(node).encode())
    process.stdin.close()
    return Child(node, process, log)


def _check(child: Child) -> None:
    status = child.process.returncode
    if status == 0:
        return
    if disk_is_full(child.log.parent):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(child.log.parent.parent))
    lines = child.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    if status == 2:
        raise UserError(f"{last} (stage of {child.node.name}, log {child.log})")
    raise UserError(
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


def _weight_done(child: Child) -> float:
    """Return the weight of a child's work so far, by the progress lines in its log."""
    text = child.log.read_text(encoding="utf-8", errors="replace")
    shares = {name: int(done) / int(total) for name, done, total in _PROGRESS.findall(text)}
    return sum(STAGE_SECONDS[_STAGE_OF[name]] * share for name, share in shares.items())
