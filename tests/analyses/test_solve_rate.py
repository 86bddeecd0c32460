"""The cumulative solve rate, against counting by hand, on logs of ours and of others."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rsgrpo.analyses.dynamics import Draw, read_spool
from rsgrpo.analyses.solve_rate import every, solve_rate
from rsgrpo.analyses.transitions import wilson
from rsgrpo.cli import app
from rsgrpo.errors import UserError
from rsgrpo.tracking.spool import Spool

HISTORIES = "oneshot_rlvr_acc_history_1209x8.jsonl"

ROUNDS = st.dictionaries(
    st.tuples(st.integers(1, 6), st.integers(0, 2)),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 4)), min_size=1, max_size=5),
    max_size=8,
)


def analyse(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["analyse", *arguments], catch_exceptions=True)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def drawn(rounds: dict[tuple[int, int], list[tuple[str, int]]]) -> dict[tuple[int, int], Draw]:
    return {at: Draw(4, [p for p, _ in row], [c for _, c in row]) for at, row in rounds.items()}


def spool_of(folder: Path, run: str = "rs-seed0") -> Path:
    """Two steps with a redrawn round, then step 2 written again as a resumed run does."""
    folder.mkdir(parents=True)
    with Spool(folder / "spool.jsonl", run) as spool:
        spool.start(run, "study", tags={"policy": run})
        spool.dataset("train.jsonl", "f" * 32, 8, "here")
        spool.draws(1, 0, 4, ["a", "b"], [0, 2])
        spool.draws(1, 1, 4, ["c"], [4])
        spool.metrics(1, {"reward": 0.5})
        spool.draws(2, 0, 4, ["a", "d"], [0, 0])
        spool.draws(2, 0, 4, ["a", "d"], [0, 0])
        spool.draws(2, 1, 4, ["a"], [1])
        spool.end()
    return folder


def test_a_prompt_counts_once_from_its_first_correct_sample_on(tmp_path: Path) -> None:
    with (spool_of(tmp_path / "run") / "spool.jsonl").open() as lines:
        record = read_spool(lines)
    assert record.n_prompts == 8
    first, second = solve_rate(record.draws, record.n_prompts)
    assert first[:6] == (1, 3, 1, 3, 2, 2)
    assert second[:6] == (2, 6, 2, 4, 3, 1)
    assert (second.rate, second.low, second.high) == wilson(3, 4)
    assert second.share_of_set == 3 / 8


@given(ROUNDS)
def test_solve_rate_equals_counting_by_hand(
    rounds: dict[tuple[int, int], list[tuple[str, int]]],
) -> None:
    rows = solve_rate(drawn(rounds))
    assert [row.step for row in rows] == sorted({step for step, _ in rounds})
    for row in rows:
        so_far = [pair for (step, _), pairs in rounds.items() if step <= row.step for pair in pairs]
        assert row.drawn == len(so_far)
        assert row.seen == len({prompt for prompt, _ in so_far})
        assert row.solved == len({prompt for prompt, correct in so_far if correct})
    assert sum(row.new_solves for row in rows) == (rows[-1].solved if rows else 0)


@given(ROUNDS, st.integers(1, 4))
def test_fewer_rows_lose_no_solve(
    rounds: dict[tuple[int, int], list[tuple[str, int]]], steps: int
) -> None:
    rows = solve_rate(drawn(rounds))
    kept = every(rows, steps)
    assert sum(row.new_solves for row in kept) == sum(row.new_solves for row in rows)
    assert kept[-1:] == [row._replace(new_solves=kept[-1].new_solves) for row in rows[-1:]]


def test_solve_rate_of_a_log_from_elsewhere(shared_data: Path) -> None:
    """1,209 prompts of One-Shot-RLVR: 770 solved at their first visit, 1,110 by their last."""
    path = shared_data / "rollouts" / HISTORIES
    rows = json.loads(analyse("solve-rate", str(path), "--json").stdout)
    histories = [json.loads(line)["acc_history"] for line in path.read_text().splitlines()]
    brute = [
        sum(any(accuracy > 0 for accuracy in history[:visit]) for history in histories)
        for visit in range(1, max(map(len, histories)) + 1)
    ]
    assert [row["solved"] for row in rows] == brute
    assert (brute[0], brute[1], brute[2], brute[-1], len(brute)) == (770, 869, 913, 1110, 57)
    assert rows[-1]["drawn"] == sum(map(len, histories)) == 64000
    assert {row["seen"] for row in rows} == {1209}
    assert rows[0]["rate"] == pytest.approx(770 / 1209, abs=1e-15)
    share, n, z = 770 / 1209, 1209, 1.959963984540054
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    bounds = [(share + z * z / (2 * n) + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert [rows[0]["low"], rows[0]["high"]] == pytest.approx(bounds, abs=1e-12)


def test_solve_rate_of_a_study_is_printed_run_by_run_as_table_json_and_csv(tmp_path: Path) -> None:
    for seed in (0, 1):
        spool_of(tmp_path / "train" / f"rs-seed{seed}-abc", f"rs-seed{seed}")
    shown = analyse("solve-rate", str(tmp_path)).stdout.splitlines()
    assert len(shown) == 1 + 2 * 2
    rows = json.loads(analyse("solve-rate", str(tmp_path), "--json").stdout)
    assert [(row["run"], row["solved"]) for row in rows] == [
        ("rs-seed0-abc", 2), ("rs-seed0-abc", 3), ("rs-seed1-abc", 2), ("rs-seed1-abc", 3),
    ]  # fmt: skip
    table = list(csv.DictReader(io.StringIO(analyse("solve-rate", str(tmp_path), "--csv").stdout)))
    assert [float(row["rate"]) for row in table] == [row["rate"] for row in rows]
    last = json.loads(analyse("solve-rate", str(tmp_path), "--json", "--every", "9").stdout)
    assert [row["step"] for row in last] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt_index": 1, "n_per_visit": 8, "acc_history": [0.3]}, "0.3 is no multiple of 1/8"),
        ({"prompt_index": 1, "n_per_visit": 8, "acc_history": [1.5]}, "1.5 must be a number from"),
        ({"prompt_index": 1, "n_per_visit": 0, "acc_history": [1.0]}, "n_per_visit is 0"),
        ({"prompt_index": 1, "n_per_visit": 8, "acc_history": 1}, "acc_history is 1"),
        ({"prompt_index": 0, "n_per_visit": 8, "acc_history": []}, "line 2 holds prompt 0 again"),
        ({"prompt_index": 1}, "no 'n_per_visit'"),
    ],
)
def test_a_bad_history_is_one_sentence(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    good = {"prompt_index": 0, "n_per_visit": 8, "acc_history": [0.125]}
    path = tmp_path / "other.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(UserError, match=message):
        analyse("solve-rate", str(path))


def test_a_missing_or_empty_log_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        analyse("solve-rate", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no training log"):
        analyse("solve-rate", str(tmp_path))
    (tmp_path / "spool.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no record of a run"):
        analyse("solve-rate", str(tmp_path))
    with Spool(tmp_path / "spool.jsonl", "old") as spool:
        spool.start("old", "study")
        spool.metrics(1, {"reward": 0.5})
    with pytest.raises(UserError, match="names no prompts that training drew"):
        analyse("solve-rate", str(tmp_path))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no rows"):
        analyse("solve-rate", str(tmp_path / "empty.jsonl"))
