"""Every hostile answer of the shared file, through the verb and through the pool."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgrpo.grading.extract import last_boxed
from rsgrpo.grading.pool import GradingPool
from rsgrpo.records import Answer, Verdict
from tests.conftest import missing
from tests.grading.test_grading_processes import descendants, is_running

ROOT = Path(__file__).resolve().parents[2]
VERDICTS = {"correct", "incorrect", "no_answer", "timeout", "error"}
ALLOWED_MIB = 512


class Watch(threading.Thread):
    """Keeps the largest resident memory of any process that comes to descend from this one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._before = set(psutil.Process().children(recursive=True))
        self.mebibytes = 0.0
        self.pids: set[int] = set()
        self._ended = threading.Event()

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(0.02):
            for child in set(psutil.Process().children(recursive=True)) - self._before:
                with suppress(psutil.NoSuchProcess):
                    self.pids.add(child.pid)
                    self.mebibytes = max(self.mebibytes, child.memory_info().rss / 2**20)


@pytest.fixture(scope="module")
def hostile(shared_data: Path) -> list[Answer]:
    text = (shared_data / "adversarial_answers.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    return [Answer(row["id"], "", row["answer"], 0, row["completion"]) for row in rows]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("extract", ["boxed", "full"])
def test_hostile_answers_end_in_time_and_memory_and_leave_no_worker(
    hostile: list[Answer], extract: str
) -> None:
    assert len(hostile) == 46
    with (
        Watch() as watch,
        GradingPool(timeout=1.0, memory_mib=ALLOWED_MIB, extract=extract) as pool,  # type: ignore[arg-type]
    ):
        sound = [
            Answer("p", "", r"\frac{1}{4}", 0, f"\\boxed{{{n}/{4 * n}}}") for n in range(1, 48)
        ]
        pool.grade(sound[:1])
        fixed = watch.mebibytes
        for row, after in zip(hostile, sound[1:], strict=True):
            start = time.monotonic()
            (verdict,) = pool.grade([row])
            assert time.monotonic() - start < 2.0, row.problem_id
            assert verdict.verdict in VERDICTS
            assert pool.grade([after])[0].correct, row.problem_id
    assert watch.mebibytes < fixed + ALLOWED_MIB
    assert not any(is_running(pid) for pid in watch.pids)


@pytest.mark.slow
def test_the_verb_grades_every_hostile_row(hostile: list[Answer], tmp_path: Path) -> None:
    path, out = tmp_path / "hostile.jsonl", tmp_path / "out.parquet"
    path.write_text("".join(json.dumps(row._asdict()) + "\n" for row in hostile))
    command = [sys.executable, "-c", "from rsgrpo.cli import main; main()", "grade", str(path)]
    with Watch() as watch:
        done = subprocess.run(
            [*command, "-o", str(out), "--timeout", "1", "--workers", "2", "--json"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=46 * 2.0,
        )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["rows"] == sum(summary[verdict] for verdict in VERDICTS) == 46
    assert pq.read_table(out)["problem_id"].to_pylist() == [row.problem_id for row in hostile]
    assert not any(is_running(pid) for pid in watch.pids)


def test_a_factorial_that_aborts_gmpy2_kills_one_worker_and_nothing_else() -> None:
    try:
        import gmpy2  # noqa: F401
    except ModuleNotFoundError:
        missing("gmpy2", "gmpy2 is not installed: pip install -e '.[dev]'")
    before = set(descendants(os.getpid()))
    with GradingPool(timeout=30.0, memory_mib=1024) as pool:
        pool.grade([Answer("p", "", "5", 0, r"\boxed{10/2}")])
        supervisor, worker = (pid for pid in descendants(os.getpid()) if pid not in before)
        start = time.monotonic()
        (verdict,) = pool.grade([Answer("p", "", "5", 0, r"\boxed{((20!)!)!}")])
        assert verdict == Verdict("((20!)!)!", "error", False)
        assert time.monotonic() - start < 30.0
        assert is_running(supervisor) and not is_running(worker)
        assert pool.grade([Answer("p", "", "5", 0, r"\boxed{15/3}")])[0].correct


PIECES = st.sampled_from(
    ["\\boxed{", "\\fbox{", "{", "}", "\\{", "\\", "1", "2", "/", "+", "^", "x", "\\frac", "\\sqrt",
     "\\left(", "\\right)", "(", ")", ",", " ", "=", "\\pi", "%", "$", ".", "\ud83d", "\x00", "５",
     "\\text{", "\\begin{pmatrix}", "\\infty", "\\cup", "-", "!"]
)  # fmt: skip
COMPLETIONS = st.one_of(
    st.lists(PIECES, max_size=12).map("".join),
    st.lists(PIECES, max_size=8).map(lambda pieces: f"so \\boxed{{{''.join(pieces)}}}."),
    st.text(max_size=30),
)
GOLDS = st.sampled_from(["5", r"\frac{1}{2}", "(1,2)", "x+1", "$", "\\text{even}"])
ROWS = st.lists(st.tuples(GOLDS, COMPLETIONS), max_size=5)


@pytest.fixture(scope="module")
def pools() -> Iterator[list[GradingPool]]:
    with (
        GradingPool(timeout=2.0) as a,
        GradingPool(timeout=2.0) as b,
        GradingPool(timeout=2.0) as c,
    ):
        yield [a, b, c]


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_any_rows_get_one_verdict_each_in_order_whatever_is_cached(
    pools: list[GradingPool], rows: list[tuple[str, str]]
) -> None:
    answers = [Answer("p", "", gold, index, text) for index, (gold, text) in enumerate(rows)]
    writing, reading, alone = pools
    verdicts = writing.grade(answers)
    for row, verdict in zip(answers, verdicts, strict=True):
        assert verdict.verdict in VERDICTS
        assert verdict.correct == (verdict.verdict == "correct")
        assert verdict.extracted == (last_boxed(row.completion) or "")
        assert verdict.extracted in row.completion
        assert (verdict.verdict == "no_answer") == (verdict.extracted == "")
    lasting = [verdict.verdict != "timeout" for verdict in verdicts]
    checks = reading.checks
    assert _where(lasting, reading.grade(answers)) == _where(lasting, verdicts)
    assert all(lasting) <= (reading.checks == checks)
    alone._cache._broken = True
    assert _where(lasting, alone.grade(answers)) == _where(lasting, verdicts)
    assert writing.grade(answers[::-1]) == verdicts[::-1]


def _where(keep: list[bool], verdicts: list[Verdict]) -> list[Verdict]:
    return [verdict for kept, verdict in zip(keep, verdicts, strict=True) if kept]
