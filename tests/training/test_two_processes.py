"""Two processes (gloo) do what one does with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "train_from_table.py"
ROWS = 48
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


Ranks = list[dict[str, Any]]


def run_processes(out: Path, count: int) -> dict[str, Ranks]:
    """Train in each mode on `count` processes; return what each rank wrote, by mode."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    arguments = [str(SCRIPT), str(out), str(ROWS // count)]
    command = [sys.executable, *(launcher if count > 1 else []), *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        mode: [json.loads((out / f"{mode}.{rank}.json").read_text()) for rank in range(count)]
        for mode in ("off", "drop", "refill")
    }


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ranks]:
    return run_processes(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ranks]:
    return run_processes(tmp_path_factory.mktemp("two"), 2)


def live_rows(ranks: Ranks, step: int) -> list[tuple[str, float]]:
    """The rows of a step that carry a gradient, over all ranks, in order."""
    rows = [row for rank in ranks for row in rank["steps"][step]["groups"]]
    return [(prompt, advantage) for prompt, advantage in rows if advantage != 0]


@pytest.mark.parametrize("mode", ["off", "drop", "refill"])
def test_two_processes_agree_with_one(
    one: dict[str, Ranks], two: dict[str, Ranks], mode: str
) -> None:
    alone, together = one[mode], two[mode]
    assert len(alone[0]["losses"]) == 10
    for step in range(10):
        assert live_rows(alone, step) == live_rows(together, step)
        assert live_rows(alone, step), "a step without any signal would show nothing"
        assert alone[0]["steps"][step]["tokens"] == together[0]["steps"][step]["tokens"]
    for first, second in zip(alone[0]["losses"], together[0]["losses"], strict=True):
        assert abs(first - second) <= 1e-5


@pytest.mark.parametrize("mode", ["off", "drop", "refill"])
def test_the_first_of_two_processes_records_what_all_of_them_draw(
    one: dict[str, Ranks], two: dict[str, Ranks], mode: str
) -> None:
    alone, (first, second) = one[mode][0]["draws"], two[mode]
    assert first["draws"] == alone and second["draws"] == []
    rounds = [number for _, number, *_ in alone]
    assert rounds.count(0) == 10 and (max(rounds) > 0) == (mode == "refill")
    assert {len(prompts) for _, number, prompts, _ in alone if not number} == {ROWS // 4}


def test_refill_replaces_silent_groups_in_their_slots(one: dict[str, Ranks]) -> None:
    before = one["off"][0]["steps"][0]["groups"]
    after = one["refill"][0]["steps"][0]["groups"]
    assert len(after) == len(before) == ROWS
    redrawn = 0
    for first in range(0, ROWS, 4):
        silent = all(advantage == 0 for _, advantage in before[first : first + 4])
        if silent:
            redrawn += before[first][0] != after[first][0]
        else:
            assert before[first : first + 4] == after[first : first + 4]
    assert redrawn >= 3
