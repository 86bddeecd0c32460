"""What a worker knows by name: output roots, environments, its tracker.

Parameters of a flow come over the network. They choose among the names in the worker's own table
and never say a path to write to, an interpreter or a command. The table is a YAML file named by
RSGRPO_WORKER, or `worker.yaml` in the current folder:

    roots: {default: runs/flows, scratch: /mnt/fast/rsgrpo}
    environments: {default: .venv/bin/python, vllm: /opt/vllm/bin/python}
    tracking_uri: http://127.0.0.1:5000

Without one there is the root `default` (the folder `runs/flows`), the environment `default` (this
interpreter) and the tracker that MLFLOW_TRACKING_URI names, else a database in the root.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field, ValidationError

from rsgrpo.config_training import Model
from rsgrpo.errors import UserError, unknown
from rsgrpo.launch import Launch

TABLE = "RSGRPO_WORKER"


class Execution(Model):
    """Where and how a flow's stages run: names that each worker resolves in its own table.

    `units` says who runs a (trial, seed): this process, or whichever worker takes a deployed flow
    run of its own; `at_once` is how many of them are under way at a time.
    """

    root: str = "default"
    environment: str = "default"
    launcher: Literal["python", "torchrun", "accelerate"] = "python"
    units: Literal["here", "deployments"] = "here"
    at_once: int = Field(1, ge=1)


class WorkerTable(Model):
    """The names that one worker knows."""

    roots: dict[str, Path] = Field({"default": Path("runs/flows")})
    environments: dict[str, Path] = Field({"default": Path(sys.executable)})
    tracking_uri: str | None = None


class Place(NamedTuple):
    """An execution's names resolved: the output root, the trainer's launch, the tracker."""

    root: Path
    launch: Launch
    tracking_uri: str | None


def resolve(execution: Execution) -> Place:
    """Look an execution's names up in this worker's table.

    Raises:
        UserError: The table is malformed or does not hold a name.
    """
    table, source = _read_table()
    python = _look_up("environment", execution.environment, table.environments, source)
    if not python.exists():
        raise UserError(f"environment {execution.environment!r} of {source} is {python}: no file")
    # absolute, and not resolved: a virtual environment's interpreter is a link
    launch = Launch(str(python.absolute()), execution.launcher)
    root = _look_up("root", execution.root, table.roots, source)
    return Place(root.absolute(), launch, table.tracking_uri or _tracking_uri())


def _tracking_uri() -> str | None:
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def _look_up(kind: str, name: str, known: Mapping[str, Path], source: str) -> Path:
    if name not in known:
        raise UserError(f"{unknown(kind, name, list(known))} (table of {source})")
    return known[name]


def _read_table() -> tuple[WorkerTable, str]:
    path = Path(os.environ.get(TABLE, "worker.yaml"))
    if not path.exists() and TABLE not in os.environ:
        return WorkerTable(), "this worker"
    try:
        tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        table = WorkerTable.model_validate(tree)
    except FileNotFoundError:
        raise UserError(f"{TABLE} names {path}, which does not exist: correct it") from None
    except (yaml.YAMLError, ValidationError, ValueError) as fault:
        reason = " ".join(str(fault).split())[:300]
        raise UserError(f"worker table {path} is malformed ({reason}): mend it") from None
    anchored = {
        "roots": _anchored(table.roots, path.parent),
        "environments": _anchored(table.environments, path.parent),
    }
    return table.model_copy(update=anchored), str(path)


def _anchored(paths: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Make a table's paths relative to its own folder."""
    return {name: folder / path for name, path in paths.items()}
