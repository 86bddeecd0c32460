"""What may be removed from an output root: work that nobody has gone on with, and what it left.

Finished stages, spools with the files that they name, studies and databases are never listed.
Links are never followed: one inside abandoned work is removed itself, one in the place of a folder
is passed over.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from rsgrpo.errors import UserError
from rsgrpo.stage_table import STAGES
from rsgrpo.stages import LOCK, MANIFEST
from rsgrpo.tracking.progress import IDENTITY_NAME
from rsgrpo.tracking.spool import SPOOL_NAME, read_spool

DAY = 86_400.0
UNFINISHED = "unfinished stage"
_STAGE_FOLDER = re.compile(r".+-[0-9a-f]{12}$")
_ENDED = re.compile(r"\.ended-(?P<host>.+)-(?P<pid>\d+)$")


class Leftover(NamedTuple):
    """Something that may be removed; `age` in seconds since its last change."""

    path: Path
    what: str
    bytes: int
    age: float
    why: str


class Removal(NamedTuple):
    """What was removed, what is in use again, and what the system refused, with its reason."""

    removed: tuple[Leftover, ...]
    in_use: tuple[Leftover, ...]
    refused: tuple[tuple[Leftover, str], ...]


def find_leftovers(root: Path, keep_days: float) -> list[Leftover]:
    """Return what retention would remove; nothing is touched.

    Args:
        root: An output root.
        keep_days: What has changed within these days stays, whatever it is.

    Raises:
        UserError: The folder is no output root.
    """
    if not root.is_dir() or not _is_root(root.resolve()):
        raise UserError(
            f"{root} is no output folder of rsgrpo: name the --out folder of a study, with its "
            "stages in it"
        )
    root = root.resolve()
    found = [*_unfinished(root), *_logs(root), *_marks(root), *_leases(root)]
    old = [leftover for leftover in found if leftover.age > keep_days * DAY]
    return [one for one in old if one.what != UNFINISHED or not _is_held(one.path)]


def remove(leftovers: Sequence[Leftover], keep_days: float) -> Removal:
    """Remove what was found, each after another look: somebody may have gone on with it.

    Of a stage's folder its lock stays, for whoever waits at it.

    Args:
        leftovers: As `find_leftovers` returned them.
        keep_days: As it was given.
    """
    removed: list[Leftover] = []
    in_use: list[Leftover] = []
    refused: list[tuple[Leftover, str]] = []
    for leftover in leftovers:
        try:
            done = _remove(leftover, keep_days * DAY)
        except OSError as fault:
            refused.append((leftover, f"{fault.filename or leftover.path}: {fault.strerror}"))
        else:
            (removed if done else in_use).append(leftover)
    return Removal(tuple(removed), tuple(in_use), tuple(refused))


def total(leftovers: Sequence[Leftover]) -> str:
    """Return in words how much there is: `2 unfinished stages, 3 process logs: 12.5 MB`."""
    if not leftovers:
        return "nothing"
    counts = Counter(leftover.what for leftover in leftovers)
    kinds = [f"{n} {what}{'s' if n > 1 else ''}" for what, n in counts.items()]
    size = sum(leftover.bytes for leftover in leftovers)
    return f"{', '.join(kinds)}: {size / 1e6:,.1f} MB"


def _is_root(root: Path) -> bool:
    stages = any(True for stage in STAGES for _ in _stage_folders(root / stage))
    return stages or (root / IDENTITY_NAME).is_file() or any(True for _ in _lease_files(root))


def _unfinished(root: Path) -> Iterator[Leftover]:
    for stage in STAGES:
        for folder in _stage_folders(root / stage):
            if leftover := _abandoned(folder):
                yield leftover


def _abandoned(folder: Path) -> Leftover | None:
    """Return what an unfinished stage left; None where it is finished or nothing is to be had."""
    with suppress(FileNotFoundError):
        content = [] if os.path.lexists(folder / MANIFEST) else _content(folder)
        if content:
            changed = max(file.lstat().st_mtime for file in _tree(folder))
            size = sum(file.lstat().st_size for child in content for file in _tree(child))
            why = "no manifest, and no process holds its lock"
            return Leftover(folder, UNFINISHED, size, time.time() - changed, why)
    return None


def _content(folder: Path) -> list[Path]:
    """Return what may go: all but the lock, spools and the files that spools name."""
    spools = [file for file in _tree(folder) if file.name == SPOOL_NAME]
    kept = {folder / LOCK, *spools, *(file for spool in spools for file in _named(spool))}
    parts = {folder / file.relative_to(folder).parts[0] for file in kept if folder in file.parents}
    return [child for child in sorted(folder.iterdir()) if child not in parts]


def _named(spool: Path) -> list[Path]:
    records = [record for record in read_spool(spool) if record["kind"] == "artifact"]
    return [Path(os.path.normpath(spool.parent / record["path"])) for record in records]


def _logs(root: Path) -> Iterator[Leftover]:
    for file in _files(root / "logs"):
        if file.name.endswith(".log"):
            yield from _old_file(file, "process log", "written by a process of an earlier run")
        elif file.name.endswith(".node.json"):
            yield from _old_file(file, "node file", "the order of a process of an earlier run")


def _marks(root: Path) -> Iterator[Leftover]:
    for file in _files(root):
        known = _ENDED.match(file.name)
        if known and not _is_alive(known["host"], int(known["pid"])):
            yield from _old_file(file, "mark", "of a process that is gone")


def _leases(root: Path) -> Iterator[Leftover]:
    for file in _lease_files(root):
        if not _is_alive(*_holder(file)):
            yield from _old_file(file, "lease", "no heartbeat, and its holder is gone")


def _lease_files(root: Path) -> Iterator[Path]:
    for study in _folders(root / "sweeps"):
        if not study.is_symlink():
            yield from (f for f in _files(study / "leases") if f.suffix == ".json")


def _holder(lease: Path) -> tuple[str, int]:
    try:
        holder = json.loads(lease.read_text(encoding="utf-8"))["holder"]
        return str(holder["host"]), int(holder["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0


def _is_alive(host: str, pid: int) -> bool:
    """Return whether a process of this machine is there; one elsewhere is known by its age."""
    return host == platform.node() and pid > 0 and Path(f"/proc/{pid}").exists()


def _old_file(file: Path, what: str, why: str) -> Iterator[Leftover]:
    with suppress(FileNotFoundError):
        known = file.lstat()
        yield Leftover(file, what, known.st_size, time.time() - known.st_mtime, why)


def _remove(leftover: Leftover, keep: float) -> bool:
    """Remove one thing; False where it has been touched since or is held."""
    if leftover.what != UNFINISHED:
        return _remove_file(leftover.path, keep)
    with _held(leftover.path) as mine:
        again = _abandoned(leftover.path) if mine else None
        if again is None or again.age <= keep:
            return not os.path.lexists(leftover.path)
        for child in _content(leftover.path):
            _delete(child)
    return True


def _remove_file(file: Path, keep: float) -> bool:
    with suppress(FileNotFoundError):
        if time.time() - file.lstat().st_mtime <= keep:
            return False
        file.unlink()
    return True


def _delete(path: Path) -> None:
    """Delete a file, a link itself, or a folder; what vanishes meanwhile is no fault."""
    while os.path.lexists(path):
        with suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _is_held(folder: Path) -> bool:
    with _held(folder) as mine:
        return not mine


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a stage's lock while the body runs; False where another process does.

    A stage that begins meanwhile waits or refuses. A lock that may not be opened is another's.
    """
    try:
        file = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    except OSError:
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(file)


def _stage_folders(stage: Path) -> Iterator[Path]:
    return (f for f in _folders(stage) if _STAGE_FOLDER.match(f.name) and not f.is_symlink())


def _folders(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder that is no link itself."""
    if folder.is_dir() and not folder.is_symlink():
        yield from (child for child in sorted(folder.iterdir()) if child.is_dir())


def _files(folder: Path) -> Iterator[Path]:
    """Yield the plain files in a folder that is no link itself."""
    if folder.is_dir() and not folder.is_symlink():
        for child in sorted(folder.iterdir()):
            if child.is_file() and not child.is_symlink():
                yield child


def _tree(path: Path) -> Iterator[Path]:
    """Yield a path and all below it, links themselves among it."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for folder, below, files in os.walk(path):
            yield from (Path(folder) / name for name in (*below, *files))
