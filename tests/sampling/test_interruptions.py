"""Sampling that is killed, stopped or watched."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rsgrpo.config import SamplingConfig
from rsgrpo.records import Problem
from rsgrpo.sampling.sample import Progress, progress_line, sample
from rsgrpo.sampling.store import read_parts

SETTINGS = SamplingConfig(batch_size=64)
ROWS = {"b": [Problem("a", "1 2 3 > 6 :", "6"), Problem("b", "1 2 4 > 7 :", "7")]}
DRAW = """
import sys
from pathlib import Path
from rsgrpo.config import SamplingConfig
from rsgrpo.records import Problem
from rsgrpo.sampling.sample import sample
rows = {"b": [Problem("a", "1 2 3 > 6 :", "6"), Problem("b", "1 2 4 > 7 :", "7")]}
policy, out, n = sys.argv[1:]
sample(Path(policy), rows, int(n), out=Path(out), settings=SamplingConfig(batch_size=64))
"""


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def parts_in(out: Path) -> set[Path]:
    return set(out.rglob("part-*.parquet"))


def kill_while_drawing(policy: Path, out: Path, n: int) -> None:
    """Draw in a process of its own and kill it after two more parts."""
    before = len(parts_in(out))
    process = subprocess.Popen([sys.executable, "-c", DRAW, str(policy), str(out), str(n)])
    try:
        wait_until(lambda: len(parts_in(out)) >= before + 2)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL, "the kill came too late"
    finally:
        process.kill()


@pytest.mark.slow
def test_after_kill_9_only_missing_parts_are_drawn_and_nothing_differs(
    policy: Path, tmp_path: Path
) -> None:
    """Killed at 8,200 samples, then at 16,400: the same as two calls that nothing disturbed."""
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    for n in (8_200, 16_400):
        kill_while_drawing(policy, killed, n)
        kept = {file: file.stat().st_mtime_ns for file in parts_in(killed)}
        seen: list[Progress] = []
        sample(policy, ROWS, n, out=killed, settings=SETTINGS, report=seen.append)
        assert {file: file.stat().st_mtime_ns for file in kept} == kept
        assert seen[-1].done == seen[-1].total == 2 * n
        assert len(parts_in(killed)) == len(kept) + len(seen) - 1
        sample(policy, ROWS, n, out=undisturbed, settings=SETTINGS)
    drawn = list(read_parts(killed))
    assert drawn == list(read_parts(undisturbed))
    assert Counter((s.problem_id, s.sample_index) for _, s in drawn) == {
        (p.id, i): 1 for p in ROWS["b"] for i in range(16_400)
    }


@pytest.mark.slow
def test_ctrl_c_ends_evaluate_with_130_and_keeps_its_parts(
    tmp_path: Path, tiny_arguments: list[str]
) -> None:
    code = "from rsgrpo.cli import main; main()"
    command = [sys.executable, "-c", code, "evaluate", "--out", str(tmp_path), *tiny_arguments]
    command += ["--set", "sampling.n=65536", "--set", "policy.pretrain.steps=20"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(parts_in(tmp_path)) >= 2)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    (folder,) = (tmp_path / "sample").iterdir()
    assert len(set(read_parts(folder))) >= 2 * 64


def test_progress_says_how_many_how_fast_and_how_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    report = progress_line()
    report(Progress(1000, 10_000, drawn=0, tokens=0))
    for second in range(1, 13):
        clock[0] = 100.0 + second
        done = 1000 + 500 * second
        report(Progress(done, 10_000, drawn=500 * second, tokens=4000 * second))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "sampling: 3,500 of 10,000 completions, 500/s, 4,000 tokens/s, 0:00:13 left",
        "sampling: 6,000 of 10,000 completions, 500/s, 4,000 tokens/s, 0:00:08 left",
    ]
    clock[0] = 118.0
    report(Progress(10_000, 10_000, drawn=9000, tokens=72_000))
    assert "10,000 of 10,000" in capsys.readouterr().err


def test_progress_on_a_terminal_is_one_line_that_is_written_again(
    policy: Path, tmp_path: Path
) -> None:
    primary, secondary = os.openpty()
    code = DRAW.replace("settings=", "report=progress_line(), settings=").replace(
        "import sample\n", "import progress_line, sample\n"
    )
    command = [sys.executable, "-c", code, str(policy), str(tmp_path), "128"]
    subprocess.run(command, stderr=secondary, check=True)
    os.close(secondary)
    printed = os.read(primary, 10_000).decode()
    os.close(primary)
    assert len(re.findall(r"\rsampling: [\d,]+ of 256 completions", printed)) == 4
    assert printed.count("\n") == 1
