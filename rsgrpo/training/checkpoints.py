"""Which checkpoint a run goes on from."""

from __future__ import annotations

import json
from pathlib import Path


def last_checkpoint(folder: Path, processes: int) -> Path | None:
    """Return the newest whole checkpoint, of which the trainer's state is the last file.

    Args:
        folder: The trainer's output folder.
        processes: Ranks, each of which leaves its random state; without it a resumed run would
            differ from an undisturbed one.
    """
    whole = [c for c in folder.glob("checkpoint-*") if is_whole(c, processes)]
    return max(whole, key=step_of, default=None)


def is_whole(checkpoint: Path, processes: int) -> bool:
    """Return whether a checkpoint was written to its end by every rank."""
    ranks = range(processes) if processes > 1 else ()
    random_states = [checkpoint / f"rng_state_{rank}.pth" for rank in ranks]
    return _is_json(checkpoint / "trainer_state.json") and all(f.exists() for f in random_states)


def step_of(checkpoint: Path) -> int:
    """Return the number of optimizer steps that a checkpoint follows."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
