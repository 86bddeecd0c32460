"""Launchers: what each starts, and that all of it ends with the process that asked for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from rsgrpo.errors import UserError
from rsgrpo.launch import LAUNCHERS, Launch, stage_command

ROOT, NODE = Path("/out"), Path("/out/logs/node.json")


def command(launcher: str, processes: int, wait: bool = False) -> list[str]:
    return stage_command(ROOT, NODE, Launch("/env/python", launcher), processes, 12, wait)


def test_each_launcher_starts_the_stage_below_a_lifeline() -> None:
    lifeline = ["/env/python", "-m", "rsgrpo.lifeline", "12", "/env/python", "-m"]
    stage = ["-m", "rsgrpo.stages", "/out", "/out/logs/node.json"]
    assert command("python", 1, wait=True) == [*lifeline, *stage[1:], "--wait"]
    assert command("torchrun", 2) == [
        *lifeline,
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        *stage,
    ]
    accelerate = command("accelerate", 4)
    assert accelerate[: len(lifeline) + 2] == [
        *lifeline,
        "accelerate.commands.launch",
        "--config_file",
    ]
    assert Path(accelerate[len(lifeline) + 2]).is_file()
    assert accelerate[len(lifeline) + 3 :] == ["--num_processes", "4", *stage]


def test_an_unknown_launcher_and_too_many_processes_are_one_sentence() -> None:
    with pytest.raises(UserError, match="unknown launcher 'torchrum': did you mean torchrun"):
        command("torchrum", 2)
    with pytest.raises(UserError, match=r"training\.processes is 2, but the launcher python"):
        command("python", 2)


def test_a_command_below_a_lifeline_ends_with_its_parent() -> None:
    sleeper = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    parent = (
        "import os, subprocess, sys\n"
        "words = [sys.executable, '-m', 'rsgrpo.lifeline', str(os.getpid()), *sys.argv[1:]]\n"
        "child = subprocess.Popen(words, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, *sleeper], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        child = psutil.Process(int(process.stdout.readline()))
        assert child.cmdline() == sleeper
        process.kill()
    _, alive = psutil.wait_procs([child], timeout=5)
    assert not alive


def test_a_lifeline_whose_parent_is_gone_runs_nothing() -> None:
    words = ["-m", "rsgrpo.lifeline", "1", sys.executable, "-c", "print('ran')"]
    done = subprocess.run([sys.executable, *words], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize("launcher_waits", [True, False])
def test_a_rank_whose_launcher_is_gone_runs_nothing(launcher_waits: bool, tmp_path: Path) -> None:
    rank = f"sleep 0.3; exec {sys.executable} -m rsgrpo.stages {tmp_path} no.node.json"
    shell = f"({rank}) & {'wait' if launcher_waits else ''}"  # the shell stands for torchrun
    words = ["-m", "rsgrpo.lifeline", str(os.getpid()), "sh", "-c", shell]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert ("no.node.json" in done.stderr) == launcher_waits
    assert (done.stderr == "") == (not launcher_waits)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_a_launcher_starts_ranks_and_reads_no_defaults_of_the_user(
    launcher: str, tmp_path: Path
) -> None:
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("nonsense: true\n")
    words = LAUNCHERS[launcher](sys.executable, 2)
    (tmp_path / "ranks.py").write_text(
        "import os; print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], flush=True)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [*words, "-m", "ranks"],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(done.stdout.split("\n")[:2]) == ["rank 0 of 2", "rank 1 of 2"]
    assert time.monotonic() - began < 60


def test_a_whole_group_ends_with_the_parent(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "words = ['-m', 'rsgrpo.lifeline', '--group', str(os.getpid()), 'sh', '-c', sys.argv[1]]\n"
        "subprocess.Popen([sys.executable, *words], start_new_session=True)\n"
        "time.sleep(60)"
    )
    # the shell starts a process that knows nothing of its grandparent
    shell = f"sleep 61 & echo $! > {tmp_path / 'pid'}; wait"
    parent = subprocess.Popen([sys.executable, "-c", code, shell])
    try:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
        grandchild = int((tmp_path / "pid").read_text())
        assert psutil.pid_exists(grandchild)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not psutil.pid_exists(grandchild))


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
