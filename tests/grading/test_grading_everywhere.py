"""The one grader from threads, asyncio, a Prefect task and the trainer's reward."""

import asyncio
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rsgrpo.config import math_grading
from rsgrpo.grading.pool import GradingPool
from rsgrpo.records import Answer, Verdict
from rsgrpo.training.rewards import make_reward

ROOT = Path(__file__).resolve().parents[2]


def rows(number: int) -> list[Answer]:
    texts = (f"{2 * number}/2", "1/3", "9^{9^{9^9}}")
    return [Answer("p", "", str(number), 0, f"\\boxed{{{text}}}") for text in texts]


def expected(number: int) -> list[Verdict]:
    return [
        Verdict(f"{2 * number}/2", "correct", True),
        Verdict("1/3", "incorrect", False),
        Verdict("9^{9^{9^9}}", "timeout", False),
    ]


def test_threads_with_pools_of_their_own_share_the_disk() -> None:
    def work(number: int) -> list[Verdict]:
        with GradingPool(timeout=1.0) as pool:
            return pool.grade(rows(number))

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(work, [1, 2, 3])) == [expected(number) for number in (1, 2, 3)]
    with GradingPool(timeout=1.0) as pool:
        assert [pool.grade(rows(number)[:2]) for number in (1, 2, 3)] == [
            expected(number)[:2] for number in (1, 2, 3)
        ]
        assert pool.checks == 0


def test_asyncio_goes_on_while_answers_are_graded() -> None:
    async def main(pool: GradingPool) -> tuple[list[list[Verdict]], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        clock = asyncio.create_task(tick())
        loop = asyncio.get_running_loop()
        graded = await asyncio.gather(
            asyncio.to_thread(pool.grade, rows(4)),
            loop.run_in_executor(None, pool.grade, rows(5)),
        )
        clock.cancel()
        return graded, ticks

    with GradingPool(timeout=1.0) as pool:
        graded, ticks = asyncio.run(main(pool))
    assert graded == [expected(4), expected(5)]
    assert ticks > 20


def test_the_training_reward_is_this_grader_and_knows_what_the_disk_knows() -> None:
    logged: dict[str, float] = {}
    grading = math_grading(timeout=1.0)
    for known in (False, True):
        with GradingPool.from_config(grading) as pool:
            reward = make_reward(grading, [0], pool)
            answers = [r"\boxed{0.5}", r"\boxed{0.25}", r"\boxed{9^{9^{9^9}}}", "none"]
            scores = reward(
                completions=answers,
                completion_ids=[[1, 0]] * 4,
                problem=["?"] * 4,
                answer=[r"\frac{1}{2}"] * 4,
                log_metric=logged.__setitem__,
            )
            assert pool.checks == (1 if known else 3)
        assert scores == [1.0, 0.0, 0.0, 0.0]
        assert logged == {"grading/timeout_share": 0.25, "grading/error_share": 0.0}


FLOW = """
    from prefect import flow, task
    from rsgrpo.grading.pool import GradingPool
    from rsgrpo.records import Answer

    @task
    def grade_some(number):
        answers = [Answer("p", "", str(number), 0, f"\\\\boxed{{{2 * number}/2}}")]
        answers.append(Answer("p", "", "5", 1, "\\\\boxed{9^{9^{9^9}}}"))
        with GradingPool(timeout=1.0) as pool:
            return [verdict.verdict for verdict in pool.grade(answers)]

    @flow
    def grade_in_tasks():
        return [future.result() for future in [grade_some.submit(number) for number in (7, 8)]]

    if __name__ == "__main__":
        print("graded", grade_in_tasks())
"""


@pytest.mark.slow
def test_prefect_tasks_grade_in_a_real_flow_run(tmp_path: Path) -> None:
    script = tmp_path / "grade_flow.py"
    script.write_text(textwrap.dedent(FLOW))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_API_URL": "",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "graded [['correct', 'timeout'], ['correct', 'timeout']]" in done.stdout


def test_a_process_forked_while_a_thread_grades_can_grade(tmp_path: Path) -> None:
    script = r"""
        import os, signal, threading, time
        from rsgrpo.grading.pool import GradingPool
        from rsgrpo.records import Answer

        def grade(text):
            return pool.grade([Answer("p", "", "5", 0, f"\\boxed{{{text}}}")])[0].verdict

        with GradingPool(timeout=3.0) as pool:
            thread = threading.Thread(target=grade, args=["9^{9^{9^9}}"])
            thread.start()
            while not pool._lock.locked():
                time.sleep(0.01)
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                os._exit(grade("10/2") != "correct")
            thread.join()
            print(os.waitpid(child, 0)[1])
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.split() == ["0"], ran.stderr
