"""The pool's verdicts, on real rollouts and on hostile ones."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rsgrpo.config import GradingConfig
from rsgrpo.grading.extract import last_boxed
from rsgrpo.grading.pool import GradingPool
from rsgrpo.records import Answer, Verdict

TOWER = "9^{9^{9^9}}"

# Each of these takes Math-Verify seconds to for ever, each in another way.
WORST = ("tower9", "pow_1e9", "fact_nested", "nest_frac200", "boxed_100k_text", "parens_5k")


def answer(gold: str, completion: str, index: int = 0) -> Answer:
    return Answer("p", "What is it?", gold, index, completion)


def boxed(gold: str, text: str) -> Answer:
    return answer(gold, f"It is \\boxed{{{text}}}.")


def read_answers(path: Path) -> list[Answer]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [
        Answer(
            row.get("problem_id", row.get("id")),
            row.get("problem", ""),
            row["answer"],
            row.get("sample_index", 0),
            row["completion"],
        )
        for row in rows
    ]


@pytest.fixture(scope="module")
def rollouts(shared_data: Path) -> list[Answer]:
    return read_answers(shared_data / "rollouts" / "qwen25math_cot100x8.jsonl")


@pytest.fixture(scope="module")
def hostile(shared_data: Path) -> list[Answer]:
    return read_answers(shared_data / "adversarial_answers.jsonl")


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    with GradingPool() as pool:
        yield pool


def plain(gold: str, text: str) -> bool:
    from math_verify import parse, verify

    return bool(verify(parse(f"\\boxed{{{gold}}}"), parse(text)))


def test_boxed_verdicts_equal_plain_math_verify_row_by_row(
    pool: GradingPool, rollouts: list[Answer]
) -> None:
    verdicts = pool.grade(rollouts)
    assert len(verdicts) == 800
    for row, verdict in zip(rollouts, verdicts, strict=True):
        text = last_boxed(row.completion)
        assert text is not None
        assert verdict.extracted == text
        assert verdict.correct == plain(row.answer, f"\\boxed{{{text}}}")
    assert sum(verdict.correct for verdict in verdicts) == 729


def test_full_verdicts_equal_plain_math_verify_row_by_row(rollouts: list[Answer]) -> None:
    with GradingPool(extract="full") as pool:
        verdicts = pool.grade(rollouts)
    for row, verdict in zip(rollouts, verdicts, strict=True):
        assert verdict.correct == plain(row.answer, row.completion)


def test_each_distinct_pair_is_checked_once(rollouts: list[Answer]) -> None:
    with GradingPool() as pool:
        first = pool.grade(rollouts)
        checks = pool.checks
        assert checks < 60
        assert pool.grade(rollouts[::-1]) == first[::-1]
        assert pool.checks == checks


def test_two_workers_give_the_verdicts_of_one(rollouts: list[Answer]) -> None:
    with GradingPool(workers=1) as one, GradingPool(workers=2) as two:
        assert one.grade(rollouts[:200]) == two.grade(rollouts[:200])


def assert_never_hangs(hostile: list[Answer], timeout: float) -> None:
    with GradingPool(timeout=timeout) as pool:
        pool.grade([boxed("1/2", "0.5")])
        for number, row in enumerate(hostile):
            start = time.monotonic()
            (verdict,) = pool.grade([row])
            assert time.monotonic() - start < timeout + 1.0, row.problem_id
            assert verdict.verdict in {"correct", "incorrect", "no_answer", "timeout", "error"}
            (after,) = pool.grade([boxed(r"\frac{1}{4}", f"{number + 1}/{4 * number + 4}")])
            assert after.correct, row.problem_id


def test_the_worst_answers_end_at_the_deadline_and_the_next_is_graded(
    hostile: list[Answer],
) -> None:
    rows = [row for row in hostile if row.problem_id in WORST]
    assert len(rows) == len(WORST)
    assert_never_hangs(rows, timeout=1.0)


@pytest.mark.alone
@pytest.mark.slow
def test_no_hostile_answer_hangs_at_the_default_timeout(hostile: list[Answer]) -> None:
    assert len(hostile) == 46
    with ThreadPoolExecutor(2) as threads:  # each grades its half, one answer after the other
        halves = [hostile[::2], hostile[1::2]]
        list(threads.map(assert_never_hangs, halves, [GradingConfig().timeout] * 2))


def test_one_hostile_answer_leaves_its_neighbours_alone() -> None:
    answers = [boxed("1/2", "0.5"), boxed("5", TOWER), boxed("5", "6/1"), boxed("5", "10/2")]
    with GradingPool(workers=2, timeout=1.0) as pool:
        assert pool.grade(answers) == [
            Verdict("0.5", "correct", True),
            Verdict(TOWER, "timeout", False),
            Verdict("6/1", "incorrect", False),
            Verdict("10/2", "correct", True),
        ]


def test_a_hostile_answer_is_paid_for_once() -> None:
    with GradingPool(timeout=1.0) as pool:
        pool.grade([boxed("5", TOWER)] * 3)
        assert pool.checks == 1
        start = time.monotonic()
        assert pool.grade([boxed("5", TOWER)])[0].verdict == "timeout"
        assert time.monotonic() - start < 0.5


def test_text_that_no_file_could_hold_is_graded(pool: GradingPool) -> None:
    verdicts = pool.grade([boxed("5", "\ud83d5"), boxed("5", "\x00\x01"), boxed("5", "2+3")])
    assert [verdict.correct for verdict in verdicts] == [False, False, True]


def test_no_answer_and_no_rows_need_no_process() -> None:
    with GradingPool() as pool:
        assert pool.grade([]) == []
        assert pool.grade([answer("5", "five")]) == [Verdict("", "no_answer", False)]
        assert pool.grade([boxed("5", "5"), boxed("5", "6")]) == [
            Verdict("5", "correct", True),
            Verdict("6", "incorrect", False),
        ]
        assert pool.checks == 0


def test_a_truncated_completion_is_graded_on_what_it_contains(pool: GradingPool) -> None:
    cut = answer("5", r"\boxed{5} since \boxed{4")._replace(truncated=True)
    assert pool.grade([cut]) == [Verdict("5", "correct", True)]


def test_progress_counts_rows_to_the_end(pool: GradingPool) -> None:
    seen: list[tuple[int, int]] = []
    rows = [answer("5", "none"), boxed("5", "10/2"), boxed("5", "10/2"), boxed("5", "5")]
    pool.grade(rows, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)
    assert seen == sorted(seen)


def test_threads_take_turns_on_one_pool(pool: GradingPool) -> None:
    verdicts: dict[int, list[Verdict]] = {}

    def work(number: int) -> None:
        verdicts[number] = pool.grade([boxed(str(number), f"{2 * number}/2"), boxed("5", "4")])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {
        number: [Verdict(f"{2 * number}/2", "correct", True), Verdict("4", "incorrect", False)]
        for number in range(1, 6)
    }


def test_a_fault_of_the_callback_leaves_the_pool_in_order(pool: GradingPool) -> None:
    def fail(done: int, total: int) -> None:
        if done:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pool.grade([boxed("1/2", "0.5"), boxed("1/3", "2/6")], progress=fail)
    assert pool.grade([boxed("7", "21/3"), boxed("7", "22/3")]) == [
        Verdict("21/3", "correct", True),
        Verdict("22/3", "incorrect", False),
    ]


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from rsgrpo.errors import UserError

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with GradingPool() as pool, pytest.raises(UserError, match=r"pip install -e '\.\[grade\]'"):
        pool.grade([boxed("5", "10/2")])
