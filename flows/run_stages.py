"""Stages as Prefect tasks: each in a process of its own, its manifest the only cache.

Prefect orders and shows; it keeps nothing. A task whose stage is finished is over at once, a task
whose flow is cancelled or killed leaves a stage that the next one goes on with.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run, task_run

from flows.run_study import recorded
from flows.shown import ProgressArtifact
from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.fingerprints import packages_of
from rsgrpo.launch import Launch
from rsgrpo.nodes import Node, node_from_json, node_to_json, upstream_nodes
from rsgrpo.processes import Child, check, end_stage, last_progress, share_done, start_stage
from rsgrpo.stages import MANIFEST, find, finished
from rsgrpo.study import Run, prepared
from rsgrpo.tracking.journal import end_study
from rsgrpo.worker import Place

POLL_SECONDS = 0.2

_stopping = threading.Event()
_stopping_here: ContextVar[threading.Event] = ContextVar("stopping_here", default=_stopping)
_open_flows: list[Place] = []
_watched: list[Child] = []
_together: dict[int, Child] = {}


def finish(place: Place, node: Node) -> Path:
    """Finish a node and whatever it needs, stage by stage, each a task run; return its folder."""
    for upstream in upstream_nodes(node):
        if find(place.root, upstream) is None:
            finish(place, upstream)
    done = run_stage(str(place.root), node_to_json(node), place.launch._asdict())
    return Path(done["folder"])


def finish_together(place: Place, node: Node) -> Path:
    """Finish a node and whatever it needs in one process, each stage a task run that follows it.

    What stages share, their imports above all, is then paid for once. Where a launcher starts
    training each stage has a process of its own, as in `finish`.
    """
    if (place.launch.launcher, node.config.training.processes) != ("python", 1):
        return finish(place, node)
    stages = [one for one in _in_order(node) if find(place.root, one) is None]
    if stages:
        child = start_stage(place.root, node, place.launch, wait=True)
        _together[child.process.pid] = child
        try:
            for one in stages:
                follow_stage(str(place.root), node_to_json(one), child.process.pid)
        finally:
            del _together[child.process.pid]
            end_stage(child)
    return finished(place.root, node)


def _in_order(node: Node) -> list[Node]:
    """Return a node after all that it needs, each once."""
    needed = [one for upstream in upstream_nodes(node) for one in _in_order(upstream)]
    return list({(one.stage, one.name): one for one in [*needed, node]}.values())


@contextmanager
def stages_of(place: Place) -> Iterator[None]:
    """Run a flow's stages in the place's environment; a flow within another takes part in its."""
    if threading.current_thread() is not threading.main_thread() or _open_flows:
        yield
        return
    for logger in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(logger).addFilter(_without_traceback)
    _stopping.clear()
    _open_flows.append(place)
    try:
        with packages_of(place.launch.python):
            yield
    finally:
        _open_flows.clear()


def _without_traceback(record: logging.LogRecord) -> bool:
    """Leave of a fault that the user can mend its sentence alone; every other keeps its trace."""
    if record.exc_info and isinstance(record.exc_info[1], UserError):
        record.exc_info = None
    return True


def stop_stages() -> None:
    """End every stage that a thread of this flow watches; they are told before anything else is.

    A cancelled flow, SIGTERM and Ctrl-C arrive as exceptions in the main thread alone.
    """
    _stopping.set()


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Yield what ends the stages of the body, not those of units beside it in the same process."""
    stopping = threading.Event()
    before = _stopping_here.set(stopping)
    try:
        yield stopping.set
    finally:
        _stopping_here.reset(before)


def is_stopping() -> bool:
    """Return whether the flow of this process, or this part of it, is being ended."""
    return _stopping.is_set() or _stopping_here.get().is_set()


def progress_of_stages() -> str:
    """Return what the stages of this process's flow have done: `training 40%`."""
    return ", ".join(last_progress(child) for child in list(_watched))


@contextmanager
def alone(config: Config, place: Place, run: Run) -> Iterator[None]:
    """Record and ship a flow that was started by itself; one within a study leaves it to that.

    What the body has finished of the run, its training and its evaluation, is recorded at its end.
    """
    if flow_run.parent_flow_run_id is not None:
        yield
        return
    with recorded(config, finish(place, prepared(config)), place.root, place.tracking_uri):
        yield
        score = find(place.root, run.score)
        training = find(place.root, run.training) if run.training else None
        end_study(
            place.root,
            config,
            scores={run.name: score} if score else {},
            trainings={run.name: training} if training else {},
            files={},
        )


def _task_name() -> str:
    tree = json.loads(task_run.parameters["node_json"])["node"]
    return f"{tree['stage']} {tree['name']}"


@task(
    task_run_name=_task_name,
    cache_policy=NO_CACHE,
    persist_result=False,
    log_prints=False,
)
def run_stage(root: str, node_json: str, launch: dict[str, str]) -> dict[str, Any]:
    """Run one stage in a process of its own, or reuse what is finished.

    Args:
        root: The output root.
        node_json: The stage, as `node_to_json` writes it.
        launch: The fields of a `Launch`.

    Returns:
        Stage, name, folder and key of the finished stage, and whether it was reused.

    Raises:
        UserError: The stage failed; the sentence is its own.
    """
    node, folder = node_from_json(node_json), Path(root)
    reused = find(folder, node)
    if reused is None:
        get_run_logger().info("%s %s begins, log %s", node.stage, node.name, folder / "logs")
        _watch(start_stage(folder, node, Launch(**launch), wait=True))
    return _outcome(find(folder, node), node, reused is not None)


@task(task_run_name=_task_name, cache_policy=NO_CACHE, persist_result=False, log_prints=False)
def follow_stage(root: str, node_json: str, pid: int) -> dict[str, Any]:
    """Wait until a process that runs several stages has finished this one.

    Args:
        root: The output root.
        node_json: The stage, as `node_to_json` writes it.
        pid: The process.

    Returns:
        As `run_stage`.

    Raises:
        UserError: The process failed before; the sentence is its own.
    """
    node, folder, child = node_from_json(node_json), Path(root), _together[pid]
    get_run_logger().info("%s %s begins, log %s", node.stage, node.name, child.log)
    shown = ProgressArtifact(f"{node.stage} {node.name}")
    watched = child._replace(node=node)
    _watched.append(watched)
    try:
        while (done := find(folder, node)) is None and child.process.poll() is None:
            if is_stopping():
                raise UserError(f"stage {node.stage} of {node.name} was stopped")
            time.sleep(POLL_SECONDS)
            shown.update(lambda: share_done(watched))
    finally:
        _watched.remove(watched)
    if done is None and (done := find(folder, node)) is None:
        check(child)
    shown.end()
    return _outcome(done, node, reused=False)


def _watch(child: Child) -> None:
    shown = ProgressArtifact(f"{child.node.stage} {child.node.name}")
    _watched.append(child)
    try:
        while child.process.poll() is None:
            if is_stopping():
                raise UserError(f"stage {child.node.stage} of {child.node.name} was stopped")
            time.sleep(POLL_SECONDS)
            shown.update(lambda: share_done(child))
    finally:
        _watched.remove(child)
        end_stage(child)
    check(child)
    shown.end()


def _outcome(folder: Path | None, node: Node, reused: bool) -> dict[str, Any]:
    if folder is None:
        raise UserError(f"stage {node.stage} of {node.name} left no {MANIFEST}: see its log")
    key = folder.name.rpartition("-")[2]
    return {
        "stage": node.stage,
        "name": node.name,
        "folder": str(folder),
        "key": key,
        "reused": reused,
    }
