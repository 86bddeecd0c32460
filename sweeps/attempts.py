"""The record of attempts at units: one JSON line each, appended under the ledger's lock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from sweeps.units import Ending


class Attempt(NamedTuple):
    """One attempt at a unit: who made it, when, how it ended and what it cost.

    Times are seconds since 1970; `device_seconds` are wall seconds times training processes,
    `tokens` what the unit's training has seen by then, over all of its attempts.
    """

    trial: int
    seed: int
    id: str
    holder: str
    began: float
    ended: float
    ending: Ending
    reason: str
    tokens: int
    device_seconds: float


class AttemptLog:
    """Reads what was added since its last look, so that long sweeps do not slow down."""

    def __init__(self, path: Path) -> None:
        """Keep the file's path; it need not exist."""
        self._path = path
        self._offset = 0
        self._found: dict[str, Attempt] = {}

    def add(self, attempt: Attempt) -> None:
        """Append an attempt; the caller holds the ledger's lock.

        Raises:
            OSError: The file may not be written.
        """
        with self._path.open("ab+") as file:
            line = json.dumps(attempt._asdict()).encode() + b"\n"
            file.write((b"\n" if _is_torn(file.name) else b"") + line)

    def read(self) -> list[Attempt]:
        """Return each attempt once, in the order in which they were added."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # its writer may still be at work
                self._offset += len(line)
                if attempt := _parse(line):
                    self._found.setdefault(attempt.id, attempt)
        return list(self._found.values())


def _is_torn(name: str) -> bool:
    with open(name, "rb") as file:
        size = file.seek(0, 2)
        return size > 0 and (file.seek(size - 1), file.read(1))[1] != b"\n"


def _parse(line: bytes) -> Attempt | None:
    try:
        return Attempt(**json.loads(line))
    except (ValueError, TypeError):
        return None
