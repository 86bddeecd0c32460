"""The process that owns the workers: it forks, times, kills and replaces them.

    the caller (pool.py)  --socket-->  supervisor  --fork-->  worker, worker, ...

The supervisor imports Math-Verify once and checks no answer itself, so it never hangs and a fresh
worker is a fork away. It is a plain subprocess rather than the fork server of `multiprocessing`,
which imports the caller's main module again in each worker (an unguarded training script would
train again) and stays behind when the pool is closed.

Nothing outlives the caller: the supervisor ends when its socket closes or its parent is gone, and
the kernel kills the workers when the supervisor dies.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections import deque
from multiprocessing.connection import Connection, wait
from typing import Any

from rsgrpo.grading.verify import Check, check
from rsgrpo.grading.worker import Limits, Outcome, Task, Worker

_WATCH_SECONDS = 1.0


class CallerGoneError(Exception):
    """The process that wants the results no longer exists."""


class Caller:
    """The way back to the process that started the supervisor."""

    def __init__(self, channel: Connection, pid: int) -> None:
        """Hold the caller's socket and its process id."""
        self.channel = channel
        self._pid = pid

    def assert_alive(self) -> None:
        """Raise CallerGoneError where the parent has died.

        The socket alone does not tell: a process forked by the caller may hold a copy of it.
        """
        if os.getppid() != self._pid:
            raise CallerGoneError

    def receive(self) -> Any:
        """Wait for the next message as long as the caller lives."""
        try:
            while not self.channel.poll(_WATCH_SECONDS):
                self.assert_alive()
            return self.channel.recv()
        except (EOFError, ConnectionError):
            raise CallerGoneError from None

    def send(self, number: int, result: Check) -> None:
        """Hand one result back."""
        try:
            self.channel.send((number, *result))
        except ConnectionError:
            raise CallerGoneError from None


class Crew:
    """The workers: never more than `limits.workers`, forked when there is work for them."""

    def __init__(self, caller: Caller, limits: Limits) -> None:
        """Start with no worker at all."""
        self._caller = caller
        self._limits = limits
        self._waiting: deque[Task] = deque()
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []

    def __enter__(self) -> Crew:
        """Let SIGTERM end the work in order."""
        signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(self, *fault: object) -> None:
        """Kill every worker."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for worker in (*self._busy, *self._idle):
            worker.kill()

    def serve(self) -> None:
        """Check what the caller sends, and hand each result back as soon as it is known.

        Raises:
            CallerGoneError: The caller closed the pool or died.
        """
        while True:
            self._waiting.extend(Task(*row) for row in self._caller.receive())
            self._check_all()

    def _check_all(self) -> None:
        while self._waiting or self._busy:
            while self._waiting and len(self._busy) < self._limits.workers:
                self._busy.append(self._worker_on(self._waiting.popleft()))
            self._harvest(self._wait())

    def _worker_on(self, task: Task) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            try:
                worker.start(task)
            except ConnectionError:
                worker.kill()
            else:
                return worker
        return Worker(task, self._limits)

    def _wait(self) -> list[object]:
        deadline = min(worker.deadline for worker in self._busy)
        seconds = min(max(deadline - time.monotonic(), 0.0), _WATCH_SECONDS)
        ready = wait([self._caller.channel, *(worker.pipe for worker in self._busy)], seconds)
        # While it waits for results the caller sends nothing: what can be read is the end.
        if self._caller.channel in ready:
            raise CallerGoneError
        self._caller.assert_alive()
        return list(ready)

    def _harvest(self, ready: list[object]) -> None:
        for worker in list(self._busy):
            outcome = worker.outcome(worker.pipe in ready)
            if outcome:
                self._busy.remove(worker)
                self._settle(worker, outcome)

    def _settle(self, worker: Worker, outcome: Outcome) -> None:
        if outcome.ending == "done" and not outcome.bloated:
            self._idle.append(worker)
        else:
            worker.kill()
        if outcome.ending == "died" and not worker.task.retried:
            # Killed from outside, or by its answer: the second death tells.
            self._waiting.appendleft(worker.task._replace(retried=True))
        else:
            self._caller.send(worker.task.number, outcome.result or self._failure(worker, outcome))

    def _failure(self, worker: Worker, outcome: Outcome) -> Check:
        verdict = "timeout" if outcome.ending == "late" else "error"
        text = worker.task.text if self._limits.mode == "boxed" else ""
        return Check(verdict, text, lasting=False)


def main() -> None:
    """Serve the caller until it is gone; the arguments are its socket and its process id."""
    # Ctrl-C goes to the whole terminal group: the caller decides what becomes of the pool.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, pid = (int(argument) for argument in sys.argv[-2:])
    caller = Caller(Connection(descriptor), pid)
    with contextlib.suppress(CallerGoneError):
        limits = Limits(*caller.receive())
        _warm_up()
        with Crew(caller, limits) as crew:
            crew.serve()


def _leave(number: int, frame: object) -> None:
    raise CallerGoneError


def _warm_up() -> None:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    check(r"\frac{1}{2}", "0.5", "boxed")
    gc.collect()
    gc.freeze()
