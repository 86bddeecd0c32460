"""How a sweep stands: exact counts, an honest rate, cost of what is under way, who is alive."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.tracking.spool import Spool
from sweeps.attempts import Attempt
from sweeps.ledger import Ledger
from sweeps.space import trial_config
from sweeps.status import active_seconds, read_status, status_lines
from sweeps.study import Opened, retry_failed
from sweeps.units import Unit
from tests.sweeps.made_studies import answers, asked, complete, failed, made, pruned

SOME = answers("cx", "cc")


def _attempt(trial: int, began: float, ended: float) -> Attempt:
    seconds = ended - began
    return Attempt(trial, 0, f"t{trial}-{began}", "h:1", began, ended, "finished", "", 5, seconds)


def test_pauses_and_units_side_by_side_are_no_further_hours() -> None:
    assert active_seconds([]) == 0
    assert active_seconds([(0, 10), (5, 12), (100, 110), (101, 102)]) == 22


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=8))
def test_active_time_is_that_in_which_anything_ran(spans: list[tuple[int, int]]) -> None:
    covered = {second for began, long in spans for second in range(began, began + long)}
    assert active_seconds([(b, b + n) for b, n in spans]) == len(covered)


def test_a_new_study_knows_no_rate(tmp_path: Path) -> None:
    status = read_status(made(tmp_path))
    assert (status.target, status.left, status.ended) == (4, 4, 0)
    assert status.rate_per_hour is status.hours_left is None
    assert status_lines(status) == [
        "small: 0 complete, 0 running, 0 waiting, 0 pruned, 0 failed; 0 of 4 trials have ended",
        "rate unknown: no trial has ended, 4 are left",
        "cost so far: 0 tokens, 0 s of devices",
        "nobody works on it",
    ]


def test_trials_that_ended_without_a_run_give_no_rate(tmp_path: Path) -> None:
    opened = made(tmp_path)
    failed(opened, {"training.risk_beta": 0.0}, "the config refuses the point")
    assert status_lines(read_status(opened))[1] == (
        "rate unknown: nothing was run for those that ended, 3 are left"
    )


def test_rate_and_time_left_are_of_the_hours_of_work(tmp_path: Path) -> None:
    opened = made(tmp_path)
    complete(opened, {"training.risk_beta": 0.0}, {0: SOME, 1: SOME})
    pruned(opened, {"training.risk_beta": 2.0}, "it trails")
    opened.ledger.record(_attempt(0, 1000, 2800))
    opened.ledger.record(_attempt(1, 100_000, 101_800))  # the next day
    status = read_status(opened)
    assert (status.complete, status.pruned, status.left) == (1, 1, 2)
    assert status.rate_per_hour == pytest.approx(2)
    assert status.hours_left == pytest.approx(1)
    assert (status.tokens, status.device_seconds) == (1100, 3600)
    assert status_lines(status)[1] == (
        "2 trials an hour (from 2 that ended in 60 min of work, too few to rely on); about 60 min "
        "for the 2 left"
    )


def test_the_last_failure_is_told_and_a_retry_takes_its_place(tmp_path: Path) -> None:
    opened = made(tmp_path)
    failed(opened, {"training.risk_beta": 0.0}, "seed 0: the disk is full")
    assert read_status(opened).failed == 1
    retry_failed(opened)
    status = read_status(opened)
    assert (status.failed, status.waiting, status.left) == (0, 1, 4)
    assert status.last_failure == "trial 0: seed 0: the disk is full"


def _unit(opened: Opened, trial: int, seed: int) -> Unit:
    config = trial_config(opened.plan.config, {"training.risk_beta": 2.0}, seed)
    return Unit(opened.name, trial, seed, config)


def test_a_unit_under_way_shows_its_step_and_its_cost(tmp_path: Path) -> None:
    opened = made(tmp_path)
    trial = asked(opened, {"training.risk_beta": 2.0})
    unit = _unit(opened, trial.number, 0)
    assert opened.ledger.take(f"trial-{trial.number}")
    lease = opened.ledger.begin(unit)
    assert lease is not None
    lease.say(progress="training")
    status = read_status(opened)
    assert (status.running, status.resumable) == (1, 0)
    (worker,) = status.workers
    assert worker.does == "unit-0-0"
    assert worker.alive
    assert worker.progress == "training"
    assert 0 <= status.device_seconds < 60
    assert "nobody works on it" not in status_lines(status)


def test_steps_and_tokens_come_from_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = made(tmp_path)
    trial = asked(opened, {"training.risk_beta": 2.0})
    unit = _unit(opened, trial.number, 1)
    assert opened.ledger.begin(unit)
    monkeypatch.setattr("sweeps.watch.folder_of", lambda root, node: root / "train" / node.name)
    with Spool(opened.root / "train" / "rs_grpo-beta2-seed1" / "spool.jsonl", "run") as spool:
        spool.metrics(7, {"num_tokens": 70})
    status = read_status(opened)
    assert (status.workers[0].step, status.workers[0].steps) == (7, 100)
    assert status.tokens == 70


def test_a_holder_that_was_killed_is_gone_and_its_trial_resumable(tmp_path: Path) -> None:
    opened = made(tmp_path)
    trial = asked(opened, {"training.risk_beta": 2.0})
    code = (
        "import sys, time; from pathlib import Path; from sweeps.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "said = {'trial': 0, 'seed': 0, 'processes': 2}\n"
        "ledger.take('trial-0'); ledger.take('unit-0-0', said); ledger.take('sweep-h-1')\n"
        "print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(opened.ledger.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        alive = read_status(opened)
        holder.kill()
    assert [worker.alive for worker in alive.workers] == [True, True]
    assert alive.resumable == 0
    gone = read_status(opened)
    assert [(w.does, w.alive) for w in gone.workers] == [
        ("coordinates", False),
        ("unit-0-0", False),
    ]
    assert gone.resumable == 1
    before = gone.device_seconds
    time.sleep(0.3)
    assert read_status(opened).device_seconds == pytest.approx(before, abs=0.1)
    assert status_lines(gone)[-2:] == [
        "1 running trials have no live holder: resume takes them up",
        "nobody works on it",
    ]
    assert trial.number == 0


def test_a_request_to_stop_is_told(tmp_path: Path) -> None:
    opened = made(tmp_path)
    Ledger(opened.ledger.folder).ask_stop("lunch")
    status = read_status(opened)
    assert "it was asked to stop: lunch" in status_lines(status)
    assert json.loads(json.dumps(status._asdict()))["stop_asked"] == "lunch"
