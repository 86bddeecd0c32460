"""The pool's processes: killed, left alone by their caller, started from odd places."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rsgrpo.grading.pool import GradingPool
from rsgrpo.records import Answer, Verdict

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = r"""
import pathlib, threading
pathlib.Path("runs.txt").open("a").write("x")
from rsgrpo.grading.pool import GradingPool
from rsgrpo.records import Answer
with GradingPool() as pool:
    print(pool.grade([Answer("p", "", "1/2", 0, r"\boxed{0.5}")])[0].verdict)
"""

HANG = r"""
import sys
from rsgrpo.grading.pool import GradingPool
from rsgrpo.records import Answer
pool = GradingPool(workers=2, timeout=300)
pool.grade([Answer("p", "", "1/2", 0, r"\boxed{0.5}")])
print("ready", flush=True)
pool.grade([Answer("p", "", "5", n, r"\boxed{9^{9^{9^{%d}}}}" % n) for n in (8, 9)])
"""


def boxed(gold: str, text: str) -> Answer:
    return Answer("p", "", gold, 0, f"\\boxed{{{text}}}")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                parents[int(entry.name)] = int(fields[1])
    found, last = [], [pid]
    while last:
        last = [child for child, parent in parents.items() if parent in last]
        found += last
    return found


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_running(pid: int) -> bool:
    fields = _stat(pid)
    return fields is not None and fields[0] != "Z"


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def started_by(action: Callable[[], object]) -> list[int]:
    before = set(descendants(os.getpid()))
    action()
    return [pid for pid in descendants(os.getpid()) if pid not in before]


def test_nothing_starts_before_an_answer_needs_it() -> None:
    with GradingPool(workers=2) as pool:
        assert started_by(lambda: pool.grade([boxed("5", "5")])) == []


def test_close_leaves_no_process() -> None:
    with GradingPool(workers=2) as pool:
        rows = [boxed("5", "10/2"), boxed("5", "11/2"), boxed("6", "12/2")]
        processes = started_by(lambda: pool.grade(rows))
        assert 2 <= len(processes) <= 3
    assert not any(is_running(pid) for pid in processes)
    pool.close()


def test_a_closed_pool_starts_anew() -> None:
    pool = GradingPool()
    pool.grade([boxed("5", "10/2")])
    pool.close()
    assert pool.grade([boxed("5", "15/3")])[0].correct
    pool.close()


def test_an_idle_worker_that_is_killed_is_replaced() -> None:
    with GradingPool() as pool:
        supervisor, worker = started_by(lambda: pool.grade([boxed("5", "10/2")]))
        os.kill(worker, signal.SIGKILL)
        assert pool.grade([boxed("5", "15/3")]) == [Verdict("15/3", "correct", True)]
        assert is_running(supervisor)


def busy_worker(supervisor: int, known: set[int]) -> int:
    assert eventually(lambda: bool(set(descendants(supervisor)) - known))
    return (set(descendants(supervisor)) - known).pop()


def grade_in_thread(pool: GradingPool, rows: list[Answer]) -> tuple[threading.Thread, list[object]]:
    out: list[object] = []
    thread = threading.Thread(target=lambda: out.extend(pool.grade(rows)))
    thread.start()
    return thread, out


def test_a_worker_killed_once_costs_no_verdict_and_twice_is_an_error() -> None:
    tower, sound = boxed("5", "9^{9^{9^9}}"), boxed("1/2", "0.5")
    with GradingPool(timeout=120.0) as pool:
        supervisor, first = started_by(lambda: pool.grade([boxed("5", "10/2")]))
        thread, out = grade_in_thread(pool, [tower, sound])
        time.sleep(0.3)
        os.kill(first, signal.SIGKILL)
        second = busy_worker(supervisor, {first})
        os.kill(second, signal.SIGKILL)
        thread.join(30)
        assert out == [Verdict("9^{9^{9^9}}", "error", False), Verdict("0.5", "correct", True)]


def test_a_worker_killed_mid_way_is_replaced_and_its_answer_graded() -> None:
    rows = [boxed(f"{n}/{n + 1}", f"{3 * n}/{3 * n + 3}") for n in range(1, 120)]
    with GradingPool() as pool:
        supervisor, first = started_by(lambda: pool.grade([boxed("5", "10/2")]))
        thread, out = grade_in_thread(pool, rows)
        os.kill(first, signal.SIGKILL)
        thread.join(60)
        assert all(isinstance(verdict, Verdict) and verdict.correct for verdict in out)
        assert len(out) == len(rows)
        assert is_running(supervisor)


def test_a_supervisor_killed_mid_way_is_replaced() -> None:
    rows = [boxed(f"{n}/{n + 2}", f"{3 * n}/{3 * n + 6}") for n in range(1, 120)]
    with GradingPool() as pool:
        supervisor, worker = started_by(lambda: pool.grade([boxed("5", "10/2")]))
        thread, out = grade_in_thread(pool, rows)
        os.kill(supervisor, signal.SIGKILL)
        thread.join(60)
        assert len(out) == len(rows)
        assert all(isinstance(verdict, Verdict) and verdict.correct for verdict in out)
        assert eventually(lambda: not is_running(worker))


def test_a_supervisor_that_cannot_live_is_a_clear_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsgrpo.grading.client._BOOTSTRAP", "raise SystemExit(1)")
    with GradingPool() as pool, pytest.raises(RuntimeError, match="died 4 times"):
        pool.grade([boxed("5", "10/2")])


@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_a_killed_caller(fatal: signal.Signals, tmp_path: Path) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", HANG],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env=environment(),
        start_new_session=True,
    )
    assert caller.stdout is not None
    assert caller.stdout.readline() == b"ready\n"
    assert eventually(lambda: len(descendants(caller.pid)) == 3)
    processes = descendants(caller.pid)
    os.killpg(caller.pid, fatal) if fatal == signal.SIGINT else caller.send_signal(fatal)
    caller.wait(10)
    caller.stdout.close()
    assert eventually(lambda: not any(is_running(pid) for pid in processes), 3.0)


def test_works_from_an_unguarded_script_which_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("correct\n", "")
    assert (tmp_path / "runs.txt").read_text() == "x"


def test_works_under_python_m(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__main__.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "own"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("correct\n", "")
    assert (tmp_path / "runs.txt").read_text() == "x"


def test_a_forked_copy_of_the_caller_gets_processes_of_its_own() -> None:
    code = textwrap.dedent(r"""
        import os
        from rsgrpo.grading.pool import GradingPool
        from rsgrpo.records import Answer
        def verdict(gold, text):
            return pool.grade([Answer("p", "", gold, 0, "\\boxed{%s}" % text)])[0].verdict
        pool = GradingPool()
        assert verdict("5", "10/2") == "correct"
        child = os.fork()
        if child == 0:
            assert verdict("5", "11/2") == "incorrect"
            pool.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert verdict("6", "12/2") == "correct"
        pool.close()
    """)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), timeout=60)
