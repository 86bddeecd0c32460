"""A forked process that checks one answer at a time and may be killed at any moment."""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from rsgrpo.grading.verify import Check, check
from rsgrpo.lifeline import die_with_parent

_MIB = 2**20
# SymPy makes many small objects and few cycles.
_OBJECTS_BETWEEN_COLLECTIONS = 20_000


class Limits(NamedTuple):
    """What a pool may use: processes, seconds for a check, MiB of memory for each process.

    The memory is counted on top of what the process has when it starts.
    """

    workers: int
    timeout: float
    memory_mib: int
    mode: Literal["boxed", "full"]


class Task(NamedTuple):
    """One pair of texts to check; `number` is the name under which the result goes back."""

    number: int
    gold: str
    text: str
    retried: bool = False


class Outcome(NamedTuple):
    """What became of a task: `done`, `late` or `died`; `bloated` says that memory has piled up."""

    ending: Literal["done", "late", "died"]
    result: Check | None = None
    bloated: bool = False


class Worker:
    """The supervisor's handle on one forked process."""

    def __init__(self, task: Task, limits: Limits) -> None:
        """Fork the process, which inherits the modules and caches of this one, and give it a task.

        Args:
            task: The first task.
            limits: The seconds for a check and the MiB of memory.
        """
        self.pipe, child_pipe = Pipe()
        self._timeout = limits.timeout
        supervisor = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _work(child_pipe, supervisor, limits)
        child_pipe.close()
        self.start(task)

    def start(self, task: Task) -> None:
        """Begin a task; its deadline runs from now.

        Raises:
            ConnectionError: The process died while it had nothing to do.
        """
        self.pipe.send((task.gold, task.text))
        self.task = task
        self.deadline = time.monotonic() + self._timeout

    def outcome(self, ready: bool) -> Outcome | None:
        """Return what became of the task, or None while it runs within its time.

        Args:
            ready: Whether the pipe has something to read, its end included.
        """
        if ready:
            try:
                result, bloated = self.pipe.recv()
            except (EOFError, ConnectionError):
                return Outcome("died")
            return Outcome("done", Check(*result), bloated)
        return Outcome("late") if time.monotonic() >= self.deadline else None

    def kill(self) -> None:
        """End the process, whatever it is doing, and reap it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self.pipe.close()


def _work(pipe: Connection, supervisor: int, limits: Limits) -> NoReturn:
    # An exception ends the process without a word: the supervisor sees a worker that died.
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent(supervisor)
        _close_all_but(pipe)
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
        bloat = _limit_memory(limits.memory_mib)
        while True:
            gold, text = pipe.recv()
            result = check(gold, text, limits.mode)
            pipe.send((tuple(result), _address_space() > bloat))
    finally:
        os._exit(1)


def _close_all_but(pipe: Connection) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.closerange(3, pipe.fileno())
    os.closerange(pipe.fileno() + 1, os.sysconf("SC_OPEN_MAX"))


def _limit_memory(mebibytes: int) -> int:
    # Returns the size from which leftovers of past answers might fail the next one.
    start = _address_space()
    allowed = start + mebibytes * _MIB
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return (start + allowed) // 2


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()
