"""Who does what in a sweep: leases with heartbeats, requests to stop, and a record of attempts.

Everything is a small file in `ROOT/sweeps/STUDY`, so that it outlives databases and servers:

    lock             held while a claim, an adoption or a takeover is made
    leases/NAME.json its holder; the file's mtime is the heartbeat
    stop, stop-NAME  a request to end everything, or the holder of one lease
    attempts.jsonl   how each attempt at a unit began and ended

A holder on this machine is alive while its process exists, however long it has been silent; one
elsewhere while its heartbeat is fresh by the clock of the file system that keeps it.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sweeps.attempts import Attempt, AttemptLog
from sweeps.holders import Holder, is_neighbour, is_running, this_process
from sweeps.units import Ending, Unit

BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0


class Held(NamedTuple):
    """A lease as others see it; `beat_age` in seconds, `said` whatever its holder tells."""

    name: str
    host: str
    pid: int
    since: float
    beat_age: float
    alive: bool
    said: dict[str, Any]


class _Record(NamedTuple):
    """What a lease's file says, and its heartbeat."""

    token: str
    holder: Holder
    since: float
    said: dict[str, Any]
    beat: float


def trial_lease(trial: int) -> str:
    """Return the name of the lease on a trial."""
    return f"trial-{trial}"


def unit_lease(unit: Unit) -> str:
    """Return the name of the lease on a unit."""
    return f"unit-{unit.trial}-{unit.seed}"


class Lease:
    """The right to work at something, until it is released or taken away.

    Attributes:
        name: What it is for.
        lost: Whether somebody else took it: its holder was silent for too long and must stop.
    """

    def __init__(self, ledger: Ledger, name: str, token: str, since: float, said: dict[str, Any]):
        """Keep what the ledger has written; `Ledger.take` makes leases."""
        self.name = name
        self.lost = False
        self._ledger, self._token, self._since, self._said = ledger, token, since, said

    def say(self, **said: Any) -> None:
        """Change what others read of this holder, for instance its progress."""
        if {**self._said, **said} == self._said:
            return
        self._said |= said
        with self._ledger.alone():
            if self._is_mine():
                self._ledger._write(self.name, self._token, self._since, self._said)

    def beat(self) -> None:
        """Give a sign of life, or learn that the lease is lost."""
        if self._is_mine():
            with suppress(FileNotFoundError):
                os.utime(self._ledger.path_of(self.name))

    def release(self) -> None:
        """Give the lease back; one that is lost is left to its new holder."""
        with self._ledger.alone():
            self._ledger._forget(self)
            if self._is_mine():
                self._ledger.path_of(self.name).unlink(missing_ok=True)

    def end(self, ending: Ending, reason: str = "", tokens: int = 0) -> Attempt:
        """Record how the attempt at a unit ended, and give its lease back.

        Args:
            ending: How it ended.
            reason: The sentence, empty where it finished.
            tokens: What its training has seen so far, over all attempts, where known.
        """
        with self._ledger.alone():
            record = _Record(self._token, this_process(), self._since, self._said, time.time())
            attempt = _attempt(record, ending, reason, tokens)
            self._ledger.record(attempt)
            self.release()
        return attempt

    def _is_mine(self) -> bool:
        record = self._ledger._read(self.name)
        self.lost = self.lost or record is None or record.token != self._token
        return not self.lost


class Ledger:
    """The leases, requests and attempts of one sweep."""

    def __init__(self, folder: Path) -> None:
        """Open a sweep's ledger, making its folder where there is none.

        Args:
            folder: `ROOT/sweeps/STUDY`.
        """
        self.folder = folder
        (folder / "leases").mkdir(parents=True, exist_ok=True)
        self._log = AttemptLog(folder / "attempts.jsonl")
        self._threads = threading.RLock()
        self._depth = 0
        self._mine: dict[str, Lease] = {}
        self._heart: threading.Thread | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let nobody else, on any machine, make a claim or release one while the body runs."""
        with self._threads:
            if self._depth:
                yield
                return
            with (self.folder / "lock").open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._depth = 1
                try:
                    yield
                finally:
                    self._depth = 0

    def take(self, name: str, said: Mapping[str, Any] | None = None) -> Lease | None:
        """Take a lease, or return None where somebody alive holds it.

        The attempt of a dead holder of a unit is recorded as killed at its last heartbeat.

        Args:
            name: What it is for.
            said: What others may read of this holder.
        """
        with self.alone():
            record = self._read(name)
            if record and self._is_alive(record):
                return None
            if record and "seed" in record.said:
                self.record(_attempt(record, "killed", "its process is gone", 0))
            lease = Lease(self, name, uuid.uuid4().hex, time.time(), dict(said or {}))
            self._write(name, lease._token, lease._since, lease._said)
            self._mine[name] = lease
        self._start_heart()
        return lease

    def begin(self, unit: Unit) -> Lease | None:
        """Take a unit's lease for an attempt at it; None where somebody alive is at work on it."""
        processes = unit.config.training.processes
        said = {"trial": unit.trial, "seed": unit.seed, "processes": processes}
        return self.take(unit_lease(unit), said)

    def bury(self, name: str) -> None:
        """Take a dead holder's lease away; an attempt at a unit is recorded as killed."""
        if self.path_of(name).exists() and (lease := self.take(name)):
            lease.release()

    def is_held(self, name: str) -> bool:
        """Return whether somebody alive, perhaps this process, holds a lease."""
        record = self._read(name)
        return record is not None and self._is_alive(record)

    def held(self) -> list[Held]:
        """Return every lease, those of the dead included, by name."""
        names = sorted(file.stem for file in (self.folder / "leases").glob("[!.]*.json"))
        records = ((name, self._read(name)) for name in names)
        now = self._now()
        return [
            Held(
                name,
                record.holder.host,
                record.holder.pid,
                record.since,
                max(now - record.beat, 0.0),
                self._is_alive(record, now),
                record.said,
            )
            for name, record in records
            if record
        ]

    def ask_stop(self, reason: str, name: str | None = None) -> None:
        """Ask everybody who works on the sweep, or the holder of one lease, to stop."""
        _replace(self._stop_file(name), {"reason": reason, "since": time.time()})

    def stop_asked(self, name: str | None = None) -> str | None:
        """Return why everybody, or the holder of a lease too, shall stop; None: go on."""
        for file in {self._stop_file(None), self._stop_file(name)}:
            if (found := _read_json(file)) is not None:
                return str(found.get("reason") or "no reason was given")
        return None

    def clear_stop(self, name: str | None = None) -> None:
        """Take a request to stop back."""
        self._stop_file(name).unlink(missing_ok=True)

    def record(self, attempt: Attempt) -> None:
        """Add an attempt to the record; one that is there already is not counted again."""
        with self.alone():
            self._log.add(attempt)

    def attempts(self) -> list[Attempt]:
        """Return all recorded attempts in order, without lines that a killed process left torn."""
        with self._threads:
            return self._log.read()

    def path_of(self, name: str) -> Path:
        """Return the file of a lease."""
        return self.folder / "leases" / f"{name}.json"

    def _stop_file(self, name: str | None) -> Path:
        return self.folder / ("stop" if name is None else f"stop-{name}")

    def _write(self, name: str, token: str, since: float, said: dict[str, Any]) -> None:
        holder = this_process()._asdict()
        content = {"token": token, "holder": holder, "since": since, "said": said}
        _replace(self.path_of(name), content)

    def _read(self, name: str) -> _Record | None:
        found = _read_json_and_time(self.path_of(name))
        if not found or not found[0]:
            return None
        content, beat = found
        holder = Holder(**content["holder"])
        return _Record(content["token"], holder, content["since"], content["said"], beat)

    def _is_alive(self, record: _Record, now: float | None = None) -> bool:
        if is_neighbour(record.holder):
            return is_running(record.holder)
        return (self._now() if now is None else now) - record.beat < SILENT_SECONDS

    def _now(self) -> float:
        """Return the time by the file system's clock: another machine's may be minutes off."""
        clock = self.folder / "clock"
        clock.touch()
        return clock.stat().st_mtime

    def _forget(self, lease: Lease) -> None:
        if self._mine.get(lease.name) is lease:
            del self._mine[lease.name]

    def _start_heart(self) -> None:
        if self._heart is None or not self._heart.is_alive():
            self._heart = threading.Thread(target=self._beat, name="heart", daemon=True)
            self._heart.start()

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            for lease in list(self._mine.values()):
                with suppress(OSError):  # a file system that is away comes back
                    lease.beat()


def _attempt(record: _Record, ending: Ending, reason: str, tokens: int) -> Attempt:
    seconds = max(record.beat - record.since, 0.0)
    return Attempt(
        trial=record.said["trial"],
        seed=record.said["seed"],
        id=record.token,
        holder=record.holder.name,
        began=record.since,
        ended=record.since + seconds,
        ending=ending,
        reason=reason,
        tokens=tokens,
        device_seconds=seconds * record.said["processes"],
    )


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's content, {} where it is damaged, None where there is none."""
    found = _read_json_and_time(path)
    return found[0] if found else None


def _read_json_and_time(path: Path) -> tuple[dict[str, Any], float] | None:
    """Return a file's content and mtime, which a network file system renews when it is opened."""
    try:
        with path.open(encoding="utf-8") as file:
            time_, text = os.fstat(file.fileno()).st_mtime, file.read()
        content = json.loads(text)
    except FileNotFoundError:
        return None
    except ValueError:
        return {}, 0.0
    return (content if isinstance(content, dict) else {}), time_
