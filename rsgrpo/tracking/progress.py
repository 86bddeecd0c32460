"""How far each spool has been shipped to each MLflow store, and the lock that keeps senders apart.

Losing the file costs a second shipping, which the store recognises: nothing is stored twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

PROGRESS_NAME = ".sync.json"
LOCK_NAME = ".sync.lock"

Offsets = dict[str, int]


def load_offsets(root: Path, store: str) -> Offsets:
    """Return how many bytes of each spool `store` has received.

    Args:
        root: The folder whose spools are shipped.
        store: What tells one MLflow store from another.

    Returns:
        Spool path relative to `root` -> bytes; empty where nothing is known.
    """
    return _load(root).get(store, {})


def save_offsets(root: Path, store: str, offsets: Offsets) -> None:
    """Write `offsets` of `store`, replacing the file at once.

    Raises:
        OSError: The folder may not be written or the disk is full; `filename` is set.
    """
    text = json.dumps({**_load(root), store: offsets}, indent=1)
    target = root / PROGRESS_NAME
    fresh = target.with_suffix(".json.new")
    try:
        fresh.write_text(text)
    except OSError as fault:
        fresh.unlink(missing_ok=True)
        raise OSError(fault.errno, fault.strerror, str(target)) from fault
    os.replace(fresh, target)


@contextlib.contextmanager
def only_sender(root: Path) -> Iterator[None]:
    """Hold the lock of `root`, waiting while another sender is at work.

    Raises:
        OSError: The folder may not be written; `filename` is set.
    """
    with open(root / LOCK_NAME, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _load(root: Path) -> dict[str, Offsets]:
    try:
        known = json.loads((root / PROGRESS_NAME).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
