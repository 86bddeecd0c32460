"""One forked worker, with the check replaced by what a hostile answer might do."""

import time
from collections.abc import Callable, Iterator

import pytest

from rsgrpo.grading.verify import Check
from rsgrpo.grading.worker import Limits, Outcome, Task, Worker

LIMITS = Limits(workers=1, timeout=5.0, memory_mib=256, mode="boxed")
MIB = 2**20
RIGHT = Check("correct", "5")

Fork = Callable[[Callable[[], object]], Worker]


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fork]:
    workers: list[Worker] = []

    def start(action: Callable[[], object]) -> Worker:
        def check(gold: str, text: str, mode: str) -> Check:
            action()
            return RIGHT

        monkeypatch.setattr("rsgrpo.grading.worker.check", check)
        workers.append(Worker(Task(0, "5", "5"), LIMITS))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def test_a_result_comes_back_and_the_worker_takes_the_next_task(fork: Fork) -> None:
    worker = fork(lambda: None)
    for number in range(3):
        assert worker.pipe.poll(5.0)
        assert worker.outcome(ready=True) == Outcome("done", RIGHT)
        worker.start(Task(number, "5", "5"))


def test_a_task_is_late_from_its_deadline_on(fork: Fork) -> None:
    worker = fork(lambda: time.sleep(60))
    assert worker.outcome(ready=False) is None
    worker.deadline = time.monotonic()
    assert worker.outcome(ready=False) == Outcome("late")


def test_memory_beyond_the_limit_is_refused(fork: Fork) -> None:
    worker = fork(lambda: bytearray(320 * MIB))
    assert worker.pipe.poll(5.0)
    assert worker.outcome(ready=True) == Outcome("died")


def test_memory_within_the_limit_is_given_and_may_be_returned(fork: Fork) -> None:
    worker = fork(lambda: bytearray(200 * MIB))
    assert worker.pipe.poll(5.0)
    assert worker.outcome(ready=True) == Outcome("done", RIGHT, bloated=False)


def test_memory_that_is_kept_marks_the_worker(fork: Fork) -> None:
    kept: list[bytearray] = []
    worker = fork(lambda: kept.append(bytearray(150 * MIB)))
    assert worker.pipe.poll(5.0)
    assert worker.outcome(ready=True) == Outcome("done", RIGHT, bloated=True)


def test_an_unforeseen_fault_is_the_death_of_the_worker(fork: Fork) -> None:
    worker = fork(lambda: 1 / 0)
    assert worker.pipe.poll(5.0)
    assert worker.outcome(ready=True) == Outcome("died")
