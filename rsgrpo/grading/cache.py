"""Verdicts that outlive a run: one SQLite file that all processes of a user share.

Every reading and writing opens the file anew and closes it, so that no connection crosses a fork
and nothing is held between two training steps. What was not yet written when a process is killed
is checked again. A file that cannot be used is no fault: grading goes on without it.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from rsgrpo.grading.verify import Check

FOLDER_VARIABLE = "RSGRPO_CACHE"
FILE = "verdicts.sqlite"

_BUSY_SECONDS = 5.0
_KEYS_AT_ONCE = 500
_SCHEMA = """
    CREATE TABLE verdicts (key BLOB PRIMARY KEY, verdict TEXT NOT NULL, extracted BLOB NOT NULL)
    WITHOUT ROWID
"""
_PACKAGES = (
    "math-verify",
    "latex2sympy2_extended",
    "antlr4-python3-runtime",
    "sympy",
    "mpmath",
    "gmpy2",
)
_DECIDING_FILES = ("normalise.py", "verify.py", "worker.py")
_LASTING = ("correct", "incorrect", "no_answer", "error")
_TOLD: set[str] = set()

T = TypeVar("T")


class VerdictCache:
    """The shared file of verdicts: `$RSGRPO_CACHE/verdicts.sqlite`, or below `~/.cache/rsgrpo`.

    It holds digests of answers, not the answers; of a full text, what was read out of it. It may be
    deleted at any time. It belongs on a disk of the machine itself: SQLite's write-ahead log cannot
    be shared over a network.
    """

    def __init__(self) -> None:
        """Touch nothing yet."""
        self._broken = False

    def read(self, keys: Sequence[bytes]) -> dict[bytes, Check]:
        """Return what is known, by key; nothing where the file cannot be used."""
        return self._attempt(lambda connection: _read(connection, keys)) or {}

    def write(self, checks: Mapping[bytes, Check]) -> None:
        """Add verdicts; one that is there already stays."""
        self._attempt(lambda connection: _write(connection, checks))

    def _attempt(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._broken:
            return None
        try:
            with closing(_open(_path())) as connection:
                return action(connection)
        except (sqlite3.Error, OSError, RuntimeError, UnicodeDecodeError) as fault:
            self._broken = True
            _say_once(f"{type(fault).__name__}: {fault}")
            return None


@cache
def grader_version() -> str:
    """Return what a verdict depends on besides the texts: packages and the files that decide."""
    digest = blake2b(digest_size=8)
    for name in _DECIDING_FILES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return " ".join((*map(_version, _PACKAGES), digest.hexdigest()))


def _version(package: str) -> str:
    try:
        return f"{package}={version(package)}"
    except PackageNotFoundError:
        return f"{package}=none"


def _path() -> Path:
    folder = os.environ.get(FOLDER_VARIABLE)
    return (Path(folder) if folder else Path.home() / ".cache" / "rsgrpo") / FILE


def _open(path: Path) -> sqlite3.Connection:
    if not path.exists():
        _create(path)
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS)
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _create(path: Path) -> None:
    # Made aside and linked into place whole: two processes that switch one file to a write-ahead
    # log at the same time lock each other out.
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as folder:
        aside = Path(folder, FILE)
        with closing(sqlite3.connect(aside)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(_SCHEMA)
        with suppress(FileExistsError):
            os.link(aside, path)


def _read(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Check]:
    found: dict[bytes, Check] = {}
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        marks = ",".join("?" * len(some))
        query = f"SELECT key, verdict, extracted FROM verdicts WHERE key IN ({marks})"
        for key, verdict, extracted in connection.execute(query, some):
            if verdict not in _LASTING or not isinstance(extracted, bytes):
                raise sqlite3.DatabaseError("it holds what no grader wrote")
            found[key] = Check(sys.intern(verdict), extracted.decode("utf-8", "surrogatepass"))
    return found


def _write(connection: sqlite3.Connection, checks: Mapping[bytes, Check]) -> None:
    rows = [
        (key, check.verdict, check.extracted.encode("utf-8", "surrogatepass"))
        for key, check in checks.items()
    ]
    with connection:
        connection.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", rows)


def _say_once(fault: str) -> None:
    where = _where()
    if where in _TOLD:
        return
    _TOLD.add(where)
    print(
        f"warning: the cache of verdicts at {where} cannot be used ({fault}): grading goes on "
        f"without it; set {FOLDER_VARIABLE} to a folder that can be written",
        file=sys.stderr,
        flush=True,
    )


def _where() -> str:
    try:
        return str(_path())
    except RuntimeError:
        return "the home folder"
