"""What a trial was made with: commit, uncommitted changes, packages, machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from rsgrpo.config import Config
from rsgrpo.tracking.environment import environment_snapshot
from rsgrpo.tracking.journal import write_environment
from sweeps.ledger import Ledger


class Provenance(NamedTuple):
    """The code that runs a trial, and the folder that says all about it, relative to the root."""

    git_commit: str
    git_dirty: bool
    environment: str


def provenance(ledger: Ledger, root: Path, config: Config) -> Provenance:
    """Return what this process makes trials with, written down once for each environment.

    Args:
        ledger: The sweep's; the folder lies beside its files.
        root: The output root.
        config: The sweep's.
    """
    snapshot = environment_snapshot()
    digest = hashlib.sha256(json.dumps(snapshot, sort_keys=True).encode()).hexdigest()[:12]
    folder = ledger.folder / "environments" / digest
    with ledger.alone():
        if not folder.exists():
            partial = folder.with_name(f".{digest}")
            write_environment(partial, config, snapshot)
            partial.rename(folder)
    dirty = bool(snapshot["git_diff"] or snapshot["git_untracked"])
    where = folder.relative_to(root).as_posix()
    return Provenance(snapshot["git_commit"], dirty, where)
