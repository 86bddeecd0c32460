"""What a sender remembers of a folder: its identity, how far it is shipped, and a lock.

Losing the file costs a second shipping, which the store recognises: nothing is stored twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

PROGRESS_NAME = ".sync.json"
LOCK_NAME = ".sync.lock"
IDENTITY_NAME = ".root-id"

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


def root_identity(root: Path) -> str:
    """Return what tells a folder from any other, made at the first call and kept inside it.

    Copied or moved with the folder, it stays the same. Call it under the lock of `only_sender`.

    Raises:
        OSError: The folder may not be written or the disk is full; `filename` is set.
    """
    file = root / IDENTITY_NAME
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        fresh = file.with_suffix(".new")
        fresh.write_text(secrets.token_hex(8))
        os.replace(fresh, file)
        return root_identity(root)


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
