"""Grading with Math-Verify in processes that can be killed, seen from the caller's side."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Literal, NamedTuple

from rsgrpo.config import GradingConfig
from rsgrpo.grading.client import Supervisor, SupervisorDiedError
from rsgrpo.grading.extract import extract_answer
from rsgrpo.grading.verify import Check, equal_at_sight
from rsgrpo.grading.worker import Limits, Task
from rsgrpo.records import Answer, Verdict

Progress = Callable[[int, int], None]

_CACHE_SIZE = 200_000
_MAX_RESTARTS = 3


class Pair(NamedTuple):
    """A gold answer and the text to be judged against it."""

    gold: str
    text: str


class GradingPool:
    """Workers that check answers with Math-Verify, each within a hard time limit.

    Use it as a context manager, from any thread; calls from several threads take turns. Processes
    start at the first answer that needs one and end with `close`, or with the calling process
    however that ends. Each distinct pair of gold answer and extracted text is checked once. After
    `close` the pool may be used again.

    Attributes:
        checks: How many pairs were checked with Math-Verify so far.
    """

    def __init__(
        self,
        workers: int = 1,
        timeout: float = 5.0,
        memory_mib: int = 2048,
        extract: Literal["boxed", "full"] = "boxed",
    ) -> None:
        """Set the limits; nothing is started.

        Args:
            workers: Processes at most.
            timeout: Seconds for one answer, after which its process is killed.
            memory_mib: Memory in MiB that a process may take for its answers.
            extract: What is judged: the last box, or the whole completion.
        """
        self.checks = 0
        self._limits = Limits(workers, timeout, memory_mib, extract)
        self._lock = threading.Lock()
        self._supervisor: Supervisor | None = None
        self._known: dict[bytes, Check] = {}

    @classmethod
    def from_config(cls, config: GradingConfig) -> GradingPool:
        """Return the pool that a configuration describes."""
        return cls(config.workers, config.timeout, config.memory_mib, config.extract)

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
            time limit) or `error` (the process died twice, or the gold answer cannot be read).

        Raises:
            UserError: Math-Verify is not installed.
            RuntimeError: The supervisor died again and again.
        """
        sheet = _Sheet(answers, self._limits.mode, progress)
        with self._lock:
            self._judge(sheet.rows, sheet.settle)
        return sheet.verdicts()

    def _judge(self, pairs: Iterable[Pair], settle: Callable[[Pair, Check], None]) -> None:
        unknown: list[Pair] = []
        for pair in pairs:
            known = _at_sight(pair) or self._known.get(_key(pair))
            if known:
                settle(pair, known)
            else:
                unknown.append(pair)
        if unknown:
            self._check(dict(enumerate(unknown)), settle)

    def _check(self, waiting: dict[int, Pair], settle: Callable[[Pair, Check], None]) -> None:
        deaths = 0
        while waiting:
            try:
                supervisor = self._running()
                supervisor.send([Task(number, *pair) for number, pair in waiting.items()])
                while waiting:
                    number, result = supervisor.receive()
                    pair = waiting.pop(number)
                    self._remember(pair, result)
                    settle(pair, result)
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

    def _remember(self, pair: Pair, result: Check) -> None:
        self.checks += 1
        if len(self._known) >= _CACHE_SIZE:
            del self._known[next(iter(self._known))]
        self._known[_key(pair)] = result

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


class _Sheet:
    """The answers of one call, gathered by distinct pair, and the verdicts so far."""

    def __init__(
        self,
        answers: Sequence[Answer],
        mode: Literal["boxed", "full"],
        progress: Progress | None,
    ) -> None:
        self.rows: defaultdict[Pair, list[int]] = defaultdict(list)
        self._graded: dict[int, Verdict] = {}
        self._n_rows = len(answers)
        self._progress = progress
        for row, answer in enumerate(answers):
            text = extract_answer(answer.completion, mode)
            if text is None:
                self._graded[row] = Verdict("", "no_answer", False)
            else:
                self.rows[Pair(answer.answer, text)].append(row)
        self._report()

    def settle(self, pair: Pair, result: Check) -> None:
        verdict = Verdict(result.extracted, result.verdict, result.verdict == "correct")
        self._graded.update(dict.fromkeys(self.rows[pair], verdict))
        self._report()

    def verdicts(self) -> list[Verdict]:
        assert len(self._graded) == self._n_rows, "one verdict for each answer"
        return [self._graded[row] for row in range(self._n_rows)]

    def _report(self) -> None:
        if self._progress:
            self._progress(len(self._graded), self._n_rows)


def _at_sight(pair: Pair) -> Check | None:
    equal = equal_at_sight(pair.gold, pair.text)
    return None if equal is None else Check("correct" if equal else "incorrect", pair.text)


def _key(pair: Pair) -> bytes:
    # A digest, since a completion may be as long as a book and the cache lives as long as a run.
    text = f"{len(pair.gold)}:{pair.gold}{pair.text}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
