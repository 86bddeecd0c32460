"""Where studies are kept: SQLite, a journal file, PostgreSQL; and what to do while it is away."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from rsgrpo.errors import UserError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

STORAGE = "RSGRPO_STORAGE"
CONNECT_SECONDS = 5
# What a shared disk says that is away or full for a while; a file that is missing is a fault.
AWAY = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENOTCONN,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
}
FIRST_WAIT, LONGEST_WAIT = 0.2, 2.0

_JOURNAL = "journal:"
# As SQLAlchemy reads it, with slashes and blanks in it, or as an option of the driver.
_PASSWORD = re.compile(r"((?<=://)[^/@:\s]*:).+(?=@)|((?<=[?&]password=))[^&\s]+")
_SCHEMES = "sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE, journal:FILE"
Answer = TypeVar("Answer")


def default_storage(root: Path) -> str:
    """Return the storage of a root that names no other: a SQLite file in it."""
    return f"sqlite:///{root.absolute() / 'optuna.db'}"


def shown(text: str) -> str:
    """Return a storage's name without its password, for screens and files."""
    return _PASSWORD.sub(r"\1\2***", text)


def open_storage(text: str) -> BaseStorage:
    """Open a storage, made where there is none.

    Args:
        text: `sqlite:///FILE`, `postgresql://USER:PASSWORD@HOST/DATABASE`, `journal:FILE`, or a
            file that ends in `.log` or `.journal`.

    Raises:
        UserError: It is none of these, or does not answer.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if text.startswith(_JOURNAL) or (text.endswith((".log", ".journal")) and "://" not in text):
        return _open_journal(Path(text.removeprefix(_JOURNAL)))
    try:
        if text.startswith("sqlite:///"):
            return _open_sqlite(text)
        if text.startswith(("postgresql://", "postgresql+psycopg://")):
            return _open_postgresql(text)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as fault:
        raise UserError(
            f"the storage {shown(text)} does not answer ({_reason(fault)}): start it, or name "
            f"another with --storage or {STORAGE}"
        ) from None
    raise UserError(f"storage {shown(text)!r} is unknown: give one of {_SCHEMES}")


def is_away(fault: BaseException) -> bool:
    """Return whether a fault says that a storage does not answer now, and may do so again."""
    import optuna
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    if isinstance(fault, optuna.exceptions.StorageInternalError):
        return fault.__cause__ is None or is_away(fault.__cause__)
    if isinstance(fault, DBAPIError) and fault.connection_invalidated:
        return True
    if isinstance(fault, OSError):
        return fault.errno in AWAY
    return isinstance(fault, OperationalError | InterfaceError | PoolTimeout)


def persist(
    operation: Callable[[], Answer], say: Callable[[str], None], may_wait: Callable[[], bool]
) -> Answer:
    """Do something with a storage, again and again while the storage is away.

    Args:
        operation: What may be repeated although it may have been done without an answer.
        say: Told once that the storage is away, and once that it is back.
        may_wait: Asked before each further attempt; the fault is raised where it says no.
    """
    wait, told = FIRST_WAIT, False
    while True:
        try:
            answer = operation()
        except Exception as fault:
            if not is_away(fault) or not may_wait():
                raise
            if wait > 1.0 and not told:  # a database that is merely busy is no news
                say(f"the storage is away ({_reason(fault)}): waiting for it, nothing is lost")
                told = True
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
        else:
            if told:
                say("the storage is back")
            return answer


def _reason(fault: BaseException) -> str:
    """Return the first line of what a database said, without addresses of manuals."""
    inner = fault.__cause__ if fault.__cause__ is not None else fault
    origin = getattr(inner, "orig", None) or inner
    lines = str(origin).strip().splitlines() or [type(origin).__name__]
    return shown(lines[0])


def _open_sqlite(text: str) -> BaseStorage:
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy import event

    Path(text.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    storage = RDBStorage(text, engine_kwargs={"connect_args": {"timeout": 60}})
    event.listen(storage.engine, "connect", _write_ahead)
    storage.engine.dispose()
    return get_storage(storage)  # keeps finished trials in memory


def _write_ahead(connection: Any, record: object) -> None:
    """Let readers go on beside a writer, and commits cost one write rather than three."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _open_postgresql(text: str) -> BaseStorage:
    from optuna.storages import RDBStorage, get_storage

    url = re.sub("^postgresql://", "postgresql+psycopg://", text)
    arguments = {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    options = {"pool_pre_ping": True, "pool_size": 2, "connect_args": arguments}
    return get_storage(RDBStorage(url, engine_kwargs=options))


def _open_journal(path: Path) -> BaseStorage:
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    path.parent.mkdir(parents=True, exist_ok=True)
    lock: Any = _FreedLock(path)  # a lock by what it does, of no class of Optuna's
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except ValueError:
        raise UserError(
            f"{path} is no journal of Optuna, or its middle is damaged: name another file"
        ) from None


class _FreedLock:
    """A lock that the system frees when its holder is killed; Optuna's own would block for 30 s.

    Whoever holds it first takes away a last line that a killed process left torn, which would make
    the file unreadable once another line follows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        self._file = self._path.with_name(f"{self._path.name}.flock").open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        _mend(self._path)
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _mend(path: Path) -> None:
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end and (file.seek(end - 1), file.read(1))[1] != b"\n":
            end -= 1
        if end < size:
            file.truncate(end)
