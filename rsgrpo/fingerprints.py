"""What tells contents, code and packages apart: the parts of a stage's key."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rsgrpo.errors import UserError
from rsgrpo.stage_table import STAGES

_PACKAGE = Path(__file__).parent

_interpreter = sys.executable


def sha256(file: Path) -> str:
    """Return the digest of a file's content, read once for each of its versions."""
    status = file.stat()
    return _sha256_of_version(file, status.st_size, status.st_mtime_ns)


@cache
def _sha256_of_version(file: Path, _size: int, _mtime_ns: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@cache
def code_version(rooms: tuple[str, ...]) -> str:
    """Return the digest of files and folders of this package, named relative to it.

    The verbs in a room's `commands.py` or `..._commands.py` give orders and change no result: they
    are left out.
    """
    digest = hashlib.sha256()
    for room in rooms:
        path = _PACKAGE / room
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in (file for file in files if not file.name.endswith("commands.py")):
            digest.update(str(file.relative_to(_PACKAGE)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def packages_of(python: str) -> Iterator[None]:
    """Take package versions from another interpreter's environment while the body runs.

    A stage's key names the packages that it runs on: a control environment that has its stages run
    by another interpreter must ask that one.

    Args:
        python: The interpreter that runs the stages.

    Raises:
        UserError: It cannot be run, or lacks this package.
    """
    global _interpreter
    before, _interpreter = _interpreter, python
    try:
        _versions(python)
        yield
    finally:
        _interpreter = before


def package_version(name: str) -> str | None:
    """Return a distribution's version where stages run, None where it is missing."""
    return _versions(_interpreter).get(name)


@cache
def _versions(python: str) -> dict[str, str | None]:
    names = sorted({name for stage in STAGES.values() for name in stage.packages})
    if python == sys.executable:
        return {name: _installed(name) for name in names}
    code = (
        "import sys; from rsgrpo.fingerprints import print_versions; print_versions(sys.argv[1:])"
    )
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = "".join(done.stderr.strip().splitlines()[-1:])
        raise UserError(f"environment {python} cannot run stages ({reason}): install rsgrpo there")
    versions: dict[str, str | None] = json.loads(done.stdout)
    return versions


def print_versions(names: Sequence[str]) -> None:
    """Print the versions of packages in this environment as JSON, null where one is missing."""
    print(json.dumps({name: _installed(name) for name in names}))


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
