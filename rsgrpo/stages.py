"""Stages: functions from config and input paths to an output folder, and the manifest of each.

A stage's key is the hash of its inputs' contents, the branches of the config that it reads, and the
code and packages that it runs on. Its folder bears the key, so nothing is ever overwritten by
another setting; what it needs only to go on after a kill lies in `.work` inside it. The manifest is
written last and atomically: a folder with one is finished and reused, a folder without one is work
that the next run goes on with. There is no other cache.

`python -m rsgrpo.stages ROOT NODE_FILE [--wait]` runs the node of a JSON file, with what it needs,
in a process of its own, which ends with its parent. A launcher starts it in several ranks: the
first holds the lock and writes the manifest, the others only work along.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rsgrpo.errors import UserError, explain_os_error
from rsgrpo.fingerprints import code_version, package_version, sha256
from rsgrpo.lifeline import die_with_parent, parent_of_this
from rsgrpo.nodes import Input, Node, node_from_json, upstream_nodes
from rsgrpo.stage_table import STAGES

MANIFEST = "manifest.json"
WORK = ".work"
LOCK = ".lock"
# How the line begins on which a stage's process says what the user can mend.
REFUSED = "rsgrpo: "


def find(root: Path, node: Node) -> Path | None:
    """Return the finished folder of a node, or None where it has still to run."""
    folder = folder_of(root, node)
    return folder if folder and _is_finished(folder) else None


def finished(root: Path, node: Node) -> Path:
    """Return the folder of a node that must be finished.

    Raises:
        UserError: It is not, where this process looks.
    """
    folder = find(root, node)
    if folder is None:
        raise UserError(
            f"stage {node.stage} of {node.name} is not finished as seen from here: its worker must "
            "have the same code, packages and output root"
        )
    return folder


def folder_of(root: Path, node: Node) -> Path | None:
    """Return the folder of a node, finished or not; None where its inputs have still to run."""
    try:
        return _folder(root, node)
    except _Unfinished:
        return None


def run(root: Path, node: Node, wait: bool = False) -> Path:
    """Run a node and whatever it needs that is not finished; return its folder.

    Args:
        root: The folder of all stages' folders.
        node: The stage to run.
        wait: Wait where another process runs a stage, and reuse what it leaves.

    Raises:
        UserError: Another process runs the same stage and `wait` is off, an input is missing, or
            the stage refuses.
        OSError: The disk is full or may not be written.
    """
    for upstream in upstream_nodes(node):
        run(root, upstream, wait)
    folder = _folder(root, node)
    if _is_finished(folder):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, node, wait):
        if not _is_finished(folder):
            _run_here(root, node, folder)
    return folder


def run_rank(root: Path, node: Node, wait: bool = False) -> Path:
    """Run a node as one of several ranks of a launcher; its inputs must be finished.

    The first rank runs the stage. Each other one calls its function once the first holds the lock,
    and leaves lock, manifest and finished folders alone.

    Args:
        root: The folder of all stages' folders.
        node: The stage to run.
        wait: As in `run`.

    Raises:
        UserError: As in `run`, or an input is not finished.
    """
    for upstream in upstream_nodes(node):
        if find(root, upstream) is None:
            raise UserError(
                f"stage {node.stage} of {node.name} runs in several processes and needs stage "
                f"{upstream.stage} of {upstream.name}, which is not finished: run that one first"
            )
    if rank() == 0:
        return run(root, node, wait)
    folder = _folder(root, node)
    if _begins_elsewhere(folder):
        _call(root, node, folder)
    return folder


def rank() -> int:
    """Return which of a launcher's processes this is: 0 for the first, and for one alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes a launcher has started together: 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def manifests(root: Path) -> list[dict[str, Any]]:
    """Return the manifests of all finished stages below a root."""
    found = (read_manifest(file.parent) for file in sorted(root.glob(f"*/*/{MANIFEST}")))
    return [manifest for manifest in found if manifest]


def users_of(root: Path, folder: Path, stage: str) -> list[Path]:
    """Return the folders of a kind of finished stages that took a finished folder as their input.

    Args:
        root: The folder of all stages' folders.
        folder: The finished folder; one without a manifest has no users.
        stage: The kind of stage.
    """
    if not _is_finished(folder):
        return []
    content = _sha256_of_outputs(folder)
    folders = [file.parent for file in sorted(root.glob(f"{stage}/*/{MANIFEST}"))]
    return [
        user
        for user in folders
        if (manifest := read_manifest(user))
        and content in manifest["depends_on"]["inputs"].values()
    ]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a finished stage's folder.

    None where there is none, where it is damaged (its stage then counts as unfinished), or where
    the file of that name is another program's, as in a checkpoint from elsewhere.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    ours = isinstance(manifest, dict) and {"stage", "depends_on", "outputs"} <= manifest.keys()
    return manifest if ours else None


def disk_is_full(folder: Path) -> bool:
    """Return whether the disk that holds a folder has less than 1 MiB left."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < 1 << 20


class _Unfinished(Exception):
    """A node's key cannot be known before its inputs are finished."""


def _run_here(root: Path, node: Node, folder: Path) -> None:
    began = time.time()
    (folder / MANIFEST).unlink(missing_ok=True)
    try:
        _call(root, node, folder)
    except UserError:
        raise
    except Exception as fault:
        if disk_is_full(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from fault
        raise
    _write_manifest(root, node, folder, time.time() - began)
    shutil.rmtree(folder / WORK, ignore_errors=True)


def _call(root: Path, node: Node, folder: Path) -> None:
    inputs = {name: _resolve(root, value) for name, value in node.inputs.items()}
    function = _function(STAGES[node.stage].function)
    function(node.config, **inputs, **node.extras, out=folder)


def _begins_elsewhere(folder: Path) -> bool:
    """Wait until the first rank holds the lock: True; or has found the stage finished: False."""
    lock = folder / LOCK
    while not _is_finished(folder):
        if lock.exists() and lock.read_text(encoding="utf-8") == _team():
            return True
        time.sleep(0.1)
    return False


def _team() -> str:
    """Return what the ranks of one launcher share with each other alone: their parent."""
    return str(os.getppid())


def _function(name: str) -> Callable[..., None]:
    module, _, attribute = name.partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), attribute)
    return function


def _write_manifest(root: Path, node: Node, folder: Path, seconds: float) -> None:
    files = sorted(file for file in folder.rglob("*") if _is_output(file, folder))
    manifest = {
        "stage": node.stage,
        "name": node.name,
        "key": folder.name.rpartition("-")[2],
        "depends_on": _dependencies(root, node),
        "seconds": round(seconds, 3),
        "outputs": {
            str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for file in files
        },
    }
    partial = folder / f"{MANIFEST}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / MANIFEST)


def _is_output(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    hidden = any(part.startswith(".") for part in parts)
    return file.is_file() and not hidden and parts[0] not in (MANIFEST, f"{MANIFEST}.partial")


def _is_finished(folder: Path) -> bool:
    """Return whether the manifest and all that it lists are there."""
    manifest = read_manifest(folder)
    return manifest is not None and all(
        (folder / name).exists() and (folder / name).stat().st_size == output["bytes"]
        for name, output in manifest["outputs"].items()
    )


def _folder(root: Path, node: Node) -> Path:
    text = json.dumps(_dependencies(root, node), sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    return root / node.stage / f"{node.name}-{key}"


def _dependencies(root: Path, node: Node) -> dict[str, Any]:
    stage = STAGES[node.stage]
    config = node.config.model_dump(mode="json", include=set(stage.branches))
    return {
        "stage": node.stage,
        "inputs": {name: _digest(root, value) for name, value in node.inputs.items()},
        "extras": dict(node.extras),
        "config": config,
        "code": code_version(stage.rooms),
        "packages": {name: package_version(name) for name in stage.packages},
    }


def _digest(root: Path, value: Input) -> Any:
    if isinstance(value, dict):
        return {name: _digest(root, item) for name, item in value.items()}
    if isinstance(value, Node):
        folder = _folder(root, value)
        if not _is_finished(folder):
            raise _Unfinished
        return _sha256_of_outputs(folder)
    if isinstance(value, str):
        return value
    return _digest_of_path(value)


def _digest_of_path(path: Path) -> str:
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if _is_output(file, path)]
        listing = {str(file.relative_to(path)): sha256(file) for file in files}
        return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()
    if not path.exists():
        raise UserError(f"input {path} does not exist: check the path")
    return sha256(path)


def _resolve(root: Path, value: Input) -> Any:
    if isinstance(value, dict):
        return {name: _resolve(root, item) for name, item in value.items()}
    return _folder(root, value) if isinstance(value, Node) else value


def _sha256_of_outputs(folder: Path) -> str:
    outputs = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["outputs"]
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


@contextmanager
def _locked(folder: Path, node: Node, wait: bool) -> Iterator[None]:
    """Hold the folder's lock, which the system frees however this process ends."""
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = f"another process is running stage {node.stage} in {folder}"
            if not wait:
                raise UserError(f"{busy}: wait for it or stop it") from None
            print(f"{busy}: waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(_team())
        file.flush()
        yield


def main() -> int:
    """Run the node of a file: arguments are the root, the file and perhaps `--wait`."""
    die_with_parent(parent_of_this())
    root, node_file, *options = sys.argv[1:]
    run_it = run_rank if world_size() > 1 else run
    try:
        node = node_from_json(Path(node_file).read_text(encoding="utf-8"))
        run_it(Path(root), node, wait="--wait" in options)
    except UserError as fault:
        print(f"{REFUSED}{fault}", file=sys.stderr)
        return 2
    except OSError as fault:
        print(f"{REFUSED}{explain_os_error(fault)}", file=sys.stderr)
        return 2
    return 0


def end_rank(run_it: Callable[[], int]) -> NoReturn:
    """Run one of several ranks and end its process without taking anything apart.

    A rank that frees its connections while another one ends may wait for ever, or abort.
    """
    try:
        status = run_it()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    if world_size() > 1:
        end_rank(main)
    sys.exit(main())
