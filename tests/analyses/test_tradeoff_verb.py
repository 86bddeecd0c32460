"""`rsgrpo analyse tradeoff` over methods, betas and seeds, against brute force."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import defaultdict
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsgrpo.analyses.tradeoff import tradeoff
from rsgrpo.config import Config
from rsgrpo.data.countdown import solutions
from rsgrpo.errors import UserError
from rsgrpo.evaluation.score import score
from tests.analyses.test_solve_rate import analyse

CONFIG = Config.model_validate(
    {
        "evaluation": {"resamples": 100, "ks": [1], "headline_k": 4},
    }
)
N = 32
SOLUTION = solutions("1 2 3 > 6 :")[0]
# Of each policy: on how many of 30 prompts it is always right, and how often on the others.
POLICIES = {
    "base-seed0": ("base", None, 0, 0, 5),
    "grpo-seed0": ("grpo", None, 0, 20, 0),
    "grpo-seed1": ("grpo", None, 1, 18, 0),
    "rs_grpo-beta2-seed0": ("rs_grpo", 2.0, 0, 10, 6),
    "rs_grpo-beta2-seed1": ("rs_grpo", 2.0, 1, 11, 6),
    "rs_grpo-beta8-seed0": ("rs_grpo", 8.0, 0, 1, 9),
    "rs_grpo-beta8-seed1": ("rs_grpo", 8.0, 1, 0, 9),
}
COUNTS = {name: [N] * sure + [often] * (30 - sure) for name, (*_, sure, often) in POLICIES.items()}


def scored(root: Path, name: str, counts: list[int], n: int = N) -> Path:
    """Score a policy whose i-th prompt has counts[i] of n correct, with the real stage."""
    method, beta, seed = POLICIES[name][:3]
    graded = root / "grade" / name
    graded.mkdir(parents=True)
    rows = [
        {
            "benchmark": ("easy", "hard")[prompt % 2],
            "problem_id": f"p{prompt}",
            "problem": "1 2 3 > 6 :",
            "answer": "6",
            "sample_index": index,
            "completion": SOLUTION if index < correct else "?",
            "extracted": "6" if index < correct else "",
            "correct": index < correct,
        }
        for prompt, correct in enumerate(counts)
        for index in range(n)
    ]
    pq.write_table(pa.Table.from_pylist(rows), graded / "graded.parquet")
    identity = {"policy": name, "method": method, "risk_beta": beta, "seed": seed}
    out = root / "score" / f"{name}-0123456789ab"
    score(CONFIG, graded=graded, identity=identity, out=out)
    return out


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for name, counts in COUNTS.items():
        scored(folder, name, counts)
    return folder


def rows_of(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(analyse("tradeoff", *arguments, "--json").stdout)
    return found


def brute(k: int) -> dict[str, Fraction]:
    """Pass@k of each method by exact fractions: mean over seeds, benchmarks and prompts."""
    seeds: dict[str, list[Fraction]] = defaultdict(list)
    for name, counts in COUNTS.items():
        passes = [1 - Fraction(comb(N - c, k), comb(N, k)) for c in counts]
        seeds[name.rpartition("-")[0]].append(sum(passes, Fraction(0)) / 30)
    return {method: sum(found, Fraction(0)) / len(found) for method, found in seeds.items()}


def test_points_front_and_knee_equal_brute_force(root: Path) -> None:
    rows = rows_of(str(root), "--k", "1,8", "--resamples", "400")
    at_1, at_8 = brute(1), brute(8)
    assert [row["label"] for row in rows] == ["base", "GRPO", "RS-GRPO β=2", "RS-GRPO β=8"]
    points = [(at_1[name], at_8[name]) for name in at_1]
    for row, (x, y) in zip(rows, points, strict=True):
        assert row["at_low_k"] == pytest.approx(float(x), abs=1e-12)
        assert row["at_high_k"] == pytest.approx(float(y), abs=1e-12)
        assert row["at_low_k_low"] - 1e-12 <= row["at_low_k"] <= row["at_low_k_high"] + 1e-12
        assert row["at_high_k_low"] - 1e-12 <= row["at_high_k"] <= row["at_high_k_high"] + 1e-12
        beaten = any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)
        assert row["on_front"] == (not beaten)
    front = sorted(point for point, row in zip(points, rows, strict=True) if row["on_front"])
    (x0, y0), (x1, y1) = front[0], front[-1]
    distance = {(x, y): (x - x0) * (y0 - y1) + (y - y0) * (x1 - x0) for x, y in front}
    knee = max(distance, key=lambda point: distance[point])
    assert [row["knee"] for row in rows] == [point == knee for point in points]
    [named] = [row for row in rows if row["knee"]]
    assert named["label"] == "RS-GRPO β=2" and named["knee_share"] >= 0.8
    assert {row["knee_share"] for row in rows if not row["knee"]} == {None}
    assert [row["seeds"] for row in rows] == [[0], [0, 1], [0, 1], [0, 1]]


def test_shares_of_the_front_equal_a_loop_over_resamples() -> None:
    rng = np.random.default_rng(3)
    points_M2 = np.array([[0.1, 0.9], [0.5, 0.8], [0.9, 0.2], [0.45, 0.75]])
    resampled_RM2 = points_M2 + rng.normal(0, 0.1, (300, 4, 2))
    found = tradeoff(points_M2, resampled_RM2)
    counts = [0] * 4
    for points in resampled_RM2.tolist():
        for m, (x, y) in enumerate(points):
            counts[m] += not any(a >= x and b >= y and (a > x or b > y) for a, b in points)
    assert found.front_share_M.tolist() == [count / 300 for count in counts]
    assert 0 < found.front_share_M[3] < 1


def test_each_further_k_is_a_trade_off_of_its_own(root: Path) -> None:
    rows = rows_of(str(root), "--k", "1,4,8", "--resamples", "100")
    assert [(row["low_k"], row["high_k"]) for row in rows] == [(1, 4)] * 4 + [(1, 8)] * 4
    alone = rows_of(str(root), "--k", "1,8", "--resamples", "100")
    for row, other in zip(rows[4:], alone, strict=True):
        assert row["front_share"] == other["front_share"] and row["knee"] == other["knee"]
        assert row["at_high_k_low"] == pytest.approx(other["at_high_k_low"], abs=1e-12)


def test_score_folders_by_name_and_a_root_are_the_same(root: Path) -> None:
    folders = [str(folder) for folder in sorted((root / "score").iterdir())]
    options = ("--k", "1,8", "--resamples", "100")
    assert rows_of(*folders, *options) == rows_of(str(root), *options)
    two = rows_of(*folders[:3], *options)
    assert [(row["label"], row["knee"], row["knee_share"]) for row in two] == [
        ("base", False, None), ("GRPO", False, None),
    ]  # fmt: skip


def test_a_later_score_of_a_policy_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    old = scored(tmp_path / "old", "base-seed0", [0] * 30)
    new = scored(tmp_path, "base-seed0", [N] * 30)
    (tmp_path / "old" / "score").joinpath(old.name).rename(new.with_name("base-seed0-older"))
    os.utime(new.with_name("base-seed0-older") / "passk.json", (1, 1))
    [row] = rows_of(str(tmp_path), "--k", "1,8", "--resamples", "100")
    assert row["at_low_k"] == pytest.approx(1, abs=1e-12)


def test_the_table_says_the_rule_once_and_csv_has_a_line_for_each_method(root: Path) -> None:
    shown = analyse("tradeoff", str(root), "--k", "1,8", "--resamples", "100").stdout
    assert shown.count("farthest, on its outer side, from the chord") == 1
    assert "RS-GRPO β=2" in shown
    text = analyse("tradeoff", str(root), "--k", "1,8", "--resamples", "100", "--csv").stdout
    table = list(csv.DictReader(io.StringIO(text)))
    assert [row["knee"] for row in table] == ["False", "False", "True", "False"]


@pytest.mark.parametrize(
    ("ks", "message"),
    [
        ("1,64", "k=64 is above the 32 samples that a prompt has"),
        ("1", "--k is '1': give two or more different k"),
        ("8,8", "--k is '8,8': give two or more different k"),
        ("1,x", "--k is '1,x': write whole numbers"),
        ("0,8", "--k is '0,8': every k must be at least 1"),
    ],
)
def test_an_unknown_k_is_one_sentence(root: Path, ks: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        analyse("tradeoff", str(root), "--k", ks)


def test_a_root_without_evaluation_and_broken_scores_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no scores"):
        analyse("tradeoff", str(tmp_path / "nowhere"))
    folder = tmp_path / "score" / "base-0"
    folder.mkdir(parents=True)
    for text, words in (("[]", "holds no rows"), ("{", "is not JSON")):
        (folder / "passk.json").write_text(text)
        with pytest.raises(UserError, match=words):
            analyse("tradeoff", str(folder))
