"""Ships spools to MLflow, from outside the processes that write them.

    python -m rsgrpo.tracking.sender ROOT [--follow] [--tracking-uri URI]

Every spool under ROOT becomes runs of one experiment: a study, below it one run for each trial and
seed, below that its evaluations. Whatever interrupts it, the next call ships the rest: runs are
found again by their id, and a number sent twice is stored once.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from rsgrpo.errors import UserError, explain_os_error
from rsgrpo.tracking.outbox import Outbox, find_spools
from rsgrpo.tracking.progress import load_offsets, only_sender, save_offsets
from rsgrpo.tracking.spool import SPOOL_NAME
from rsgrpo.tracking.store import Store, SyncSummary, explained, quiet_mlflow

POLL_SECONDS = 2.0

logger = logging.getLogger(__name__)


def sync(root: Path, tracking_uri: str | None = None, follow: bool = False) -> SyncSummary:
    """Ship what the spools under `root` hold and MLflow does not.

    Args:
        root: The folder of a study; every `spool.jsonl` below it is shipped.
        tracking_uri: An MLflow server or database; `ROOT/mlflow.db` by default, with artifacts in
            `ROOT/mlartifacts`.
        follow: Go on until SIGTERM, until the calling process says that it has ended
            (`ended_file`) or until it is gone, then make a last pass. A server that is away
            meanwhile is waited for.

    Returns:
        What was shipped.

    Raises:
        UserError: `root` is missing or empty, or MLflow does not take the records; nothing is lost.
        OSError: `root` may not be written or its disk is full; `filename` is set.
    """
    caller = os.getppid()
    if not Path(root).is_dir():
        raise UserError(f"{root} is not a folder: name the output folder of a study")
    if not follow and not find_spools(Path(root)):
        raise UserError(f"{root} holds no {SPOOL_NAME}: name the output folder of a study")
    sender = Sender(Path(root).resolve(), tracking_uri)
    return _follow(sender, caller) if follow else sender.ship()


class Sender:
    """Ships one folder to one MLflow store, pass by pass."""

    def __init__(self, root: Path, tracking_uri: str | None = None) -> None:
        """Remember where from and where to; nothing is opened yet.

        Args:
            root: The folder whose spools are shipped, absolute.
            tracking_uri: As for `sync`.
        """
        self.root = root
        self.uri = tracking_uri or f"sqlite:///{root / 'mlflow.db'}"
        self._outbox: Outbox | None = None
        self._store: Store | None = None

    def ship(self) -> SyncSummary:
        """Make one pass over all spools.

        Returns:
            What this pass shipped.

        Raises:
            UserError: MLflow does not take the records; the next pass begins where this one failed.
            OSError: The folder may not be written or its disk is full; `filename` is set.
        """
        with only_sender(self.root), quiet_mlflow(), explained(self.uri, self.root):
            try:
                return self._ship()
            except BaseException:
                # What was read but not shipped has to be read again.
                self._outbox = self._store = None
                raise

    def _ship(self) -> SyncSummary:
        self._store = store = self._store or Store(self.uri, self.root)
        self._outbox = outbox = self._outbox or Outbox(self.root)
        offsets = load_offsets(self.root, store.identity)
        summary = SyncSummary(self.uri)
        for name, parcels in outbox.collect(offsets).items():
            for parcel in parcels:
                summary = summary.plus(store.deliver(parcel, outbox.starts))
            offsets[name] = outbox.position(name)
            save_offsets(self.root, store.identity, offsets)
        return summary


def ended_file(root: Path, caller: int) -> Path:
    """Return the file by which a process tells its own sender, and no other, that it has ended."""
    return root / f".ended-{platform.node()}-{caller}"


def _follow(sender: Sender, caller: int) -> SyncSummary:
    stop = threading.Event()
    summary = SyncSummary(sender.uri)
    away = False

    def over() -> bool:
        return stop.is_set() or os.getppid() != caller or ended_file(sender.root, caller).exists()

    with _on_terminate(stop.set):
        while not over():
            try:
                summary = summary.plus(sender.ship())
                away = False
            except UserError as fault:
                if not away:
                    logger.warning("%s", fault)
                away = True
            stop.wait(POLL_SECONDS)
    return summary.plus(sender.ship())


@contextlib.contextmanager
def _on_terminate(action: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM call `action`, where the thread may set that; a second SIGTERM ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        action()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sender from the command line.

    Args:
        arguments: The command line after the program's name; the process's own by default.

    Returns:
        The exit status: 0, or 2 after a fault that one sentence on stderr explains.
    """
    parser = argparse.ArgumentParser(
        prog="python -m rsgrpo.tracking.sender", description="Ship the spools of a study to MLflow."
    )
    parser.add_argument("root", type=Path, help="the output folder of a study")
    parser.add_argument("--follow", action="store_true", help="go on until the caller has ended")
    parser.add_argument("--tracking-uri", help="MLflow server or database (ROOT/mlflow.db)")
    chosen = parser.parse_args(arguments)
    try:
        summary = sync(chosen.root, chosen.tracking_uri, chosen.follow)
    except UserError as fault:
        return _fail(str(fault))
    except OSError as fault:
        return _fail(explain_os_error(fault))
    except KeyboardInterrupt:
        return 130
    for path in summary.missing:
        _say(f"{path} was recorded as an artifact and is not on disk: MLflow does not have it")
    return 0


def _fail(sentence: str) -> int:
    _say(sentence)
    return 2


def _say(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")


if __name__ == "__main__":
    sys.exit(main())
