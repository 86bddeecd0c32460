"""Grading with Math-Verify in processes that can be killed, seen from the caller's side."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal

from rsgrpo.config import GradingConfig
from rsgrpo.grading.cache import VerdictCache, grader_version
from rsgrpo.grading.client import Supervisor, SupervisorDiedError
from rsgrpo.grading.sheet import Pair, Progress, Sheet
from rsgrpo.grading.verify import Check
from rsgrpo.grading.worker import Limits, Task
from rsgrpo.records import Answer, Verdict

_REMEMBERED = 200_000
_REMEMBERED_CHARS = 1_000
_WRITE_SECONDS = 1.0
_MAX_RESTARTS = 3
_POOLS: weakref.WeakSet[GradingPool] = weakref.WeakSet()


class GradingPool:
    """Workers that check answers with Math-Verify, each within a hard time limit.

    Use it as a context manager, from any thread; calls from several threads take turns. Processes
    start at the first answer that needs one and end with `close`, or with the calling process
    however that ends. Each distinct pair of gold answer and normalised text is checked once, and
    what does not depend on the limits is kept on disk for other pools (`cache.py`). After `close`
    the pool may be used again.

    Attributes:
        checks: How many pairs were checked with Math-Verify so far.
    """

    def __init__(
        self,
        workers: int = 1,
        timeout: float = 5.0,
        memory_mib: int = 2048,
        extract: Literal["boxed", "full"] = "boxed",
        max_chars: int = 100_000,
    ) -> None:
        """Set the limits; nothing is started.

        Args:
            workers: Processes at most.
            timeout: Seconds for one answer, after which its process is killed.
            memory_mib: Memory in MiB that a process may take for its answers.
            extract: What is judged: the last box, or the whole completion.
            max_chars: A text to be judged that is longer, and not equal at sight, is an `error`
                without a check. With `full` that is the whole completion: give it room for the
                longest that the policy may write.
        """
        self.checks = 0
        self._limits = Limits(workers, timeout, memory_mib, extract)
        self._max_chars = max_chars
        self._renew_lock()
        self._supervisor: Supervisor | None = None
        self._known: dict[bytes, Check] = {}
        self._cache = VerdictCache()
        _POOLS.add(self)

    @classmethod
    def from_config(cls, config: GradingConfig) -> GradingPool:
        """Return the pool that a configuration describes."""
        return cls(
            config.workers, config.timeout, config.memory_mib, config.extract, config.max_chars
        )

    def __enter__(self) -> GradingPool:
        """Return the pool."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pool."""
        self.close()

    def close(self) -> None:
        """End every process of the pool; one that is grading in another thread finishes first."""
        with self._lock:
            self._stop()

    def grade(self, answers: Sequence[Answer], progress: Progress | None = None) -> list[Verdict]:
        """Grade answers, in their order.

        Args:
            answers: Any number; `truncated` is not looked at.
            progress: Called with (rows graded, rows) as the grading goes on.

        Returns:
            One verdict for each answer: `correct`, `incorrect`, `no_answer`, `timeout` (over the
            time limit) or `error` (the process died twice, the text is longer than `max_chars`, or
            the gold answer cannot be read).

        Raises:
            UserError: Math-Verify is not installed.
            RuntimeError: The supervisor died again and again.
        """
        sheet = Sheet(answers, self._limits.mode, progress)
        with self._lock:
            self._judge(sheet.questions, sheet.settle)
        return sheet.verdicts()

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def _judge(self, questions: list[Pair], settle: Callable[[Pair, Check], None]) -> None:
        unknown: dict[bytes, Pair] = {}
        for question in questions:
            key = self._key(question)
            if len(question.text) > self._max_chars:
                settle(question, Check("error", ""))
            elif key in self._known:
                settle(question, self._known[key])
            else:
                unknown[key] = question
        for key, result in (self._cache.read(list(unknown)) if unknown else {}).items():
            self._remember(key, result)
            settle(unknown.pop(key), result)
        if unknown:
            self._check(dict(enumerate(unknown.values())), settle)

    def _check(self, waiting: dict[int, Pair], settle: Callable[[Pair, Check], None]) -> None:
        fresh = _Fresh(self._cache)
        deaths = 0
        try:
            while waiting:
                try:
                    self._receive(waiting, settle, fresh)
                except SupervisorDiedError:
                    self._stop()
                    deaths += 1
                    if deaths > _MAX_RESTARTS:
                        raise RuntimeError(
                            f"the grading process died {deaths} times: see what it wrote to stderr"
                        ) from None
        except BaseException:
            # Results that are under way would be taken for those of the next call.
            self._stop()
            raise
        finally:
            fresh.write()

    def _receive(
        self, waiting: dict[int, Pair], settle: Callable[[Pair, Check], None], fresh: _Fresh
    ) -> None:
        supervisor = self._running()
        supervisor.send([Task(number, *pair) for number, pair in waiting.items()])
        while waiting:
            number, result = supervisor.receive()
            question = waiting.pop(number)
            key = self._key(question)
            self.checks += 1
            self._remember(key, result)
            fresh.add(key, result)
            settle(question, result)

    def _remember(self, key: bytes, result: Check) -> None:
        if len(result.extracted) > _REMEMBERED_CHARS:
            return
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = result

    def _key(self, pair: Pair) -> bytes:
        # A digest, since a completion may be as long as a book and verdicts outlive the run. What
        # fits into memory is part of it: Math-Verify takes an answer that does not for a wrong one.
        head = f"{grader_version()}\0{self._limits.mode}\0{self._limits.memory_mib}\0"
        text = f"{head}{len(pair.gold)}:{pair.gold}{pair.text}"
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()

    def _running(self) -> Supervisor:
        # A forked copy of this process must not talk over the original's socket.
        if self._supervisor and self._supervisor.caller != os.getpid():
            self._supervisor = None
        if self._supervisor is None:
            self._supervisor = Supervisor(self._limits)
        return self._supervisor

    def _stop(self) -> None:
        if self._supervisor and self._supervisor.caller == os.getpid():
            self._supervisor.stop()
        self._supervisor = None


def _renew_locks() -> None:
    # A thread that was grading when its process forked holds the copy's lock, and is not there to
    # give it back.
    for pool in _POOLS:
        pool._renew_lock()


os.register_at_fork(after_in_child=_renew_locks)


class _Fresh:
    """Verdicts on their way to the disk: written together, and soon enough to outlive a kill."""

    def __init__(self, cache: VerdictCache) -> None:
        self._cache = cache
        self._checks: dict[bytes, Check] = {}
        self._written = time.monotonic()

    def add(self, key: bytes, result: Check) -> None:
        if result.lasting:
            self._checks[key] = result
        if time.monotonic() - self._written >= _WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        if self._checks:
            self._cache.write(self._checks)
        self._checks = {}
        self._written = time.monotonic()
