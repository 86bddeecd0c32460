"""Every prompt that training draws is on record, once, whatever kills the run."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rsgrpo.analyses.dynamics import TrainingRecord, read_spool
from rsgrpo.analyses.solve_rate import solve_rate
from rsgrpo.config import Config, load_config
from rsgrpo.data.jsonl import read_problems
from rsgrpo.launch import Launch
from rsgrpo.nodes import Node
from rsgrpo.processes import start_stage
from rsgrpo.stages import run
from rsgrpo.study import base_policy, run_identity, trained_run
from rsgrpo.tracking.spool import read_spool as records_of
from rsgrpo.training.dynamic_sampling import Refill, used_groups
from rsgrpo.training.train import train
from tests.conftest import TINY


@pytest.fixture(scope="module")
def base(tiny_config: Config, tiny_root: Path) -> tuple[Path, Path]:
    """Prepared data and base policy."""
    policy = base_policy(tiny_config)
    assert isinstance(policy, Node) and isinstance(policy.inputs["data"], Node)
    trained = run(tiny_root, policy)
    return run(tiny_root, policy.inputs["data"]), trained


def read(spool: Path) -> TrainingRecord:
    with spool.open(encoding="utf-8") as lines:
        return read_spool(lines)


def train_into(out: Path, config: Config, base: tuple[Path, Path]) -> TrainingRecord:
    out.mkdir(exist_ok=True)
    train(config, data=base[0], policy=base[1], identity=run_identity(config), out=out)
    return read(out / "spool.jsonl")


def tiny(**training: Any) -> Config:
    return load_config(None, [*TINY, *(f"training.{k}={v}" for k, v in training.items())])


@pytest.mark.parametrize("mode", ["off", "drop", "refill"])
def test_each_step_records_every_prompt_of_its_unfiltered_first_pass(
    tmp_path: Path, base: tuple[Path, Path], mode: str
) -> None:
    record = train_into(tmp_path / "run", tiny(dynamic_sampling=mode, max_refill_rounds=2), base)
    known = {problem.id for problem in read_problems(base[0] / "train.jsonl")}
    assert record.n_prompts == len(known)
    assert [at for at in record.draws if at[1] == 0] == [(step, 0) for step in (1, 2, 3, 4)]
    for (step, number), draw in record.draws.items():
        assert set(draw.prompts_P) <= known and draw.n == 8
        if number == 0:
            assert len(draw.prompts_P) == 8
            assert record.metrics["pass_at_1"][step] == pytest.approx(sum(draw.correct_P) / 64)
            fails = sum(correct == 0 for correct in draw.correct_P) / 8
            assert record.metrics["frac_all_fail"][step] == pytest.approx(fails)
    rounds = Counter(step for step, number in record.draws if number)
    if mode != "refill":
        assert not rounds
        return
    assert rounds == {s: int(n) for s, n in record.metrics["refill_rounds"].items()}
    for step in range(1, 5):
        silent = sum(correct in (0, 8) for correct in record.draws[step, 0].correct_P)
        assert len(record.draws[step, 1].prompts_P) == silent


def test_unused_groups_of_a_redrawn_round_are_left_out() -> None:
    refill = Refill(width=3, slots=[[1], [], [0, 2, 3]], prompts=[[0], [], [1, 2, 3]])
    assert used_groups(refill) == [0, 6, 7, 8]


def test_a_run_killed_hard_and_resumed_counts_no_prompt_twice(tmp_path: Path) -> None:
    """SIGKILL between two checkpoints, then the same command: the record of the undisturbed run."""
    config = tiny(dynamic_sampling="refill", steps=8, save_every=4)
    node = trained_run(config, base_policy(config)).training
    assert node is not None
    for upstream in node.inputs.values():
        assert isinstance(upstream, Node)
        run(tmp_path / "whole", upstream)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    whole = read(run(tmp_path / "whole", node) / "spool.jsonl")
    child = start_stage(tmp_path / "cut", node, Launch())
    end = time.monotonic() + 120
    while not (spools := list((tmp_path / "cut" / "train").glob("*/spool.jsonl"))) or not any(
        record["kind"] == "draws" and record["step"] == 7 for record in records_of(spools[0])
    ):
        assert time.monotonic() < end and child.process.poll() is None
        time.sleep(0.005)
    child.process.kill()
    child.process.wait()
    with spools[0].open("a") as torn:
        torn.write('{"kind": "draws", "run": "x", "step": 8, "round')
    cut = run(tmp_path / "cut", node) / "spool.jsonl"
    written = Counter((r["step"], r["round"]) for r in records_of(cut) if r["kind"] == "draws")
    assert written[5, 0] == 2, "the steps after the checkpoint must have been drawn again"
    assert read(cut).draws == whole.draws
    assert solve_rate(read(cut).draws, 9) == solve_rate(whole.draws, 9)


def test_what_was_drawn_is_compact(tmp_path: Path, base: tuple[Path, Path]) -> None:
    train_into(tmp_path / "run", tiny(), base)
    lines = (tmp_path / "run" / "spool.jsonl").read_text().splitlines()
    sizes = [len(line) for line in lines if json.loads(line)["kind"] == "draws"]
    assert max(sizes) < 150 + 8 * 20  # of 8 prompts: ids of the training set, one number each
