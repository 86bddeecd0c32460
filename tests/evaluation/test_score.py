"""From graded Parquet files to pass@k rows."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.evaluation.score import passk_rows, read_prompts, score
from rsgrpo.evaluation.statistics import powers_of_two
from rsgrpo.records import PassKRow, StatisticRow

IDENTITY = {"policy": "rs_grpo-beta4-seed1", "method": "rs_grpo", "risk_beta": 4.0, "seed": 1}
PROMPT = "7 2 6 > 26 :"
CHAIN, MIRROR, WRONG = "7 + 6 = 13 * 2 = 26", "6 + 7 = 13 * 2 = 26", "7 + 2 = 9 * 6 = 26"


def graded_row(benchmark, problem_id, index, correct, completion="", problem=PROMPT):
    return {
        "benchmark": benchmark,
        "problem_id": problem_id,
        "problem": problem,
        "answer": "26",
        "sample_index": index,
        "completion": completion,
        "n_tokens": 10,
        "truncated": False,
        "extracted": completion,
        "verdict": "correct" if correct else "incorrect",
        "correct": correct,
    }


def write_graded(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def counts(benchmark, problem_id, c, n):
    return [graded_row(benchmark, problem_id, i, i < c) for i in range(n)]


def test_one_row_for_each_benchmark_and_k_and_then_the_mean():
    rows = passk_rows(["a", "b", "b"], [2, 0, 4], [4, 4, 4], identity=IDENTITY, ks=(1, 4))
    assert [(row.benchmark, row.k) for row in rows] == [
        (name, k) for name in ("a", "b", "mean") for k in (1, 4)
    ]
    assert [row.pass_at_k for row in rows] == pytest.approx([0.5, 1, 0.5, 0.5, 0.5, 0.75])
    assert [row.n_prompts for row in rows] == [1, 1, 2, 2, 3, 3]
    assert all(row.n_samples == 4 and row.policy == "rs_grpo-beta4-seed1" for row in rows)
    assert all(row.low <= row.pass_at_k <= row.high for row in rows)


def test_a_single_benchmark_has_no_mean():
    rows = passk_rows(["a", "a"], [2, 0], [4, 4], identity=IDENTITY, ks=(1,))
    assert [row.benchmark for row in rows] == ["a"]


def test_powers_of_two():
    assert powers_of_two(1) == (1,)
    assert powers_of_two(9) == (1, 2, 4, 8)


def test_score_counts_answers_solutions_and_trees(tmp_path):
    texts = [CHAIN, MIRROR, WRONG, CHAIN]
    rows = [
        graded_row("T3", "p", i, text != WRONG, text) for i, text in reversed([*enumerate(texts)])
    ]
    write_graded(tmp_path / "graded.parquet", rows)
    score(Config(), graded=tmp_path, identity=IDENTITY, out=tmp_path / "out")
    (prompt,) = read_prompts(tmp_path / "out" / "prompts.parquet")
    assert (prompt.n, prompt.c) == (4, 3)
    assert prompt.correct_samples == [True, True, False, True]
    assert (prompt.unique_answers, prompt.unique_solutions, prompt.unique_trees) == (3, 2, 1)
    assert (prompt.n_solutions, prompt.n_trees) == (2, 1)
    assert (prompt.answer_counts, prompt.solution_counts) == ([2, 1, 1], [2, 1])
    assert prompt.tree_counts == [3]


def test_score_writes_rows_with_identity_and_only_the_k_that_exist(tmp_path):
    write_graded(tmp_path / "graded.parquet", counts("a", "1", 0, 4) + counts("b", "1", 0, 4))
    config = Config.model_validate(
        {
            "data": {"source": "jsonl", "train": "t.jsonl"},
            "grading": {"verifier": "math_verify"},
        }
    )
    score(config, graded=tmp_path, identity=IDENTITY, out=tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "passk.json").read_text())
    assert set(rows[0]) == set(PassKRow._fields)
    assert [(row["benchmark"], row["k"]) for row in rows] == [
        (name, k) for name in ("a", "b", "mean") for k in (1, 2, 4)
    ]
    assert {row["risk_beta"] for row in rows} == {4.0}
    (first, _) = read_prompts(tmp_path / "out" / "prompts.parquet")
    assert (first.unique_trees, first.n_solutions, first.n_trees, first.tree_counts) == (None,) * 4


def test_on_text_the_correct_answers_are_one_and_wrong_ones_are_told_apart_as_votes_are(tmp_path):
    texts = ["1/2", "0.5", r"\dfrac{1}{3}", r"\frac{1}{3}", " 7", ""]
    rows = [graded_row("a", "p", i, i < 2, text) for i, text in enumerate(texts)]
    write_graded(tmp_path / "graded.parquet", rows)
    data = {"data": {"source": "jsonl", "train": "t.jsonl"}}
    config = Config.model_validate({**data, "grading": {"verifier": "math_verify"}})
    score(config, graded=tmp_path, identity=IDENTITY, out=tmp_path / "out")
    (prompt,) = read_prompts(tmp_path / "out" / "prompts.parquet")
    assert (prompt.unique_answers, prompt.answer_counts) == (4, [2, 2, 1, 1])
    assert prompt.unique_solutions == 2


def test_score_refuses_a_sample_graded_twice(tmp_path):
    write_graded(tmp_path / "graded.parquet", counts("a", "1", 1, 2) + counts("a", "1", 1, 1))
    with pytest.raises(UserError, match="sample 0 of problem 1 twice"):
        score(Config(), graded=tmp_path, identity=IDENTITY, out=tmp_path / "out")


def test_score_writes_all_three_metrics_with_the_means_that_there_are(tmp_path):
    rows = counts("a", "1", 3, 8) + counts("b", "1", 2, 8) + counts("c", "1", 2, 4)
    write_graded(tmp_path / "graded.parquet", rows)
    config = Config.model_validate(
        {
            "data": {"source": "jsonl", "train": "t.jsonl"},
            "grading": {"verifier": "math_verify"},
            "evaluation": {"ks": (1, 4, 8, 16), "headline_k": 4},
        }
    )
    score(config, graded=tmp_path, identity=IDENTITY, out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert set(found[0]) == {*IDENTITY, *StatisticRow._fields}
    places = [
        *((name, k) for name in "ab" for k in (1, 4, 8)),
        ("c", 1),
        ("c", 4),
        ("mean", 1),
        ("mean", 4),
        ("mean of 2 (without c)", 8),
    ]
    for metric in ("pass@k", "maj@k"):
        rows = [row for row in found if row["metric"] == metric]
        assert [(row["benchmark"], row["k"]) for row in rows] == places
    passk = json.loads((tmp_path / "out" / "passk.json").read_text())
    assert {row["benchmark"] for row in passk} == {"a", "b", "c", "mean"}
    same = {
        (row["benchmark"], row["k"]): row["value"] for row in found if row["metric"] == "pass@k"
    }
    for row in passk:
        assert row["pass_at_k"] == pytest.approx(same[row["benchmark"], row["k"]], abs=1e-12)
