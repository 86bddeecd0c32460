"""The stage that turns scores and spools into tables and one sentence."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsgrpo.analyses.advantage_shape import advantage_shape, shape_table
from rsgrpo.analyses.analyse import analyse
from rsgrpo.analyses.study import method_label
from rsgrpo.config import Config
from rsgrpo.data.countdown import puzzles, to_problem
from rsgrpo.errors import UserError
from rsgrpo.evaluation.score import score
from rsgrpo.records import PassKRow

CONFIG = Config.model_validate(
    {"evaluation": {"resamples": 200, "headline_k": 4, "ks": [1, 4, 64]}}
)
POLICIES = {
    "base": ("base", None, 0, 0.2),
    "grpo-seed0": ("grpo", None, 0, 0.4),
    "grpo-seed1": ("grpo", None, 1, 0.4),
    "rs_grpo-beta0-seed0": ("rs_grpo", 0.0, 0, 0.4),
    "rs_grpo-beta4-seed0": ("rs_grpo", 4.0, 0, 0.7),
    "rs_grpo-beta4-seed1": ("rs_grpo", 4.0, 1, 0.8),
}
IDENTITY = {"policy", "method", "risk_beta", "seed"}
METHOD = {"method", "risk_beta", "label", "n_samples", "n_prompts", "seeds"}
INTERVAL = {"low", "high"}
TRANSITION = {
    f"newly_{kind}_{part}" for kind in ("solved", "lost") for part in ("share", *INTERVAL)
}
COLUMNS = {
    "passk": set(PassKRow._fields),
    "methods": METHOD | INTERVAL | {"benchmark", "k", "pass_at_k"},
    "differences": METHOD | INTERVAL | {"benchmark", "k", "difference", "baseline"},
    "dynamics": IDENTITY | {"label", "metric", "steps", "values"},
    "advantage_shape": IDENTITY
    | {"label", "step", "correct", "groups", "standard_total", "risk_sensitive_total"}
    | {"standard_histogram", "risk_histogram"},
    "unique": IDENTITY
    | {"label", "benchmark", "n_samples", "n_prompts", "unique_answers", "unique_solutions"}
    | {"unique_trees", "n_solutions", "n_trees", "per_prompt_trees", "per_prompt_n_trees"},
    "diagnosis": IDENTITY
    | INTERVAL
    | {"label", "signature", "found", "value", "evidence", "next_step", "rule"},
    "transitions": IDENTITY
    | TRANSITION
    | {"label", "before", "benchmark", "n_samples", "n_prompts", "solved_solved"}
    | {"solved_unsolved", "unsolved_solved", "unsolved_unsolved"}
    | {"significantly_gained", "significantly_lost"},
}


def graded_rows(accuracy, n, seed):
    rng = np.random.default_rng(seed)
    chosen = [p for tier in ("T1", "T3") for p in [q for q in puzzles() if q.tier == tier][:6]]
    for number, puzzle in enumerate(chosen):
        problem = to_problem(puzzle, puzzle.numbers, f"p{number}").problem
        for index in range(n):
            correct = bool(rng.random() < accuracy * (number % 4) / 3)
            text = str(puzzle.solutions[rng.integers(len(puzzle.solutions))]) if correct else "1"
            yield {
                "benchmark": puzzle.tier,
                "problem_id": f"p{number}",
                "problem": problem,
                "answer": str(puzzle.target),
                "sample_index": index,
                "completion": text,
                "n_tokens": 10,
                "truncated": False,
                "extracted": text,
                "verdict": "correct" if correct else "incorrect",
                "correct": correct,
            }


def scored(folder, name, config=CONFIG, n=16):
    method, beta, seed, accuracy = POLICIES[name]
    graded = folder / f"{name}-graded"
    graded.mkdir()
    rows = list(graded_rows(accuracy, n, seed=len(name)))
    pq.write_table(pa.Table.from_pylist(rows), graded / "graded.parquet")
    identity = {"policy": name, "method": method, "risk_beta": beta, "seed": seed}
    score(config, graded=graded, identity=identity, out=folder / name)
    return folder / name


def trained(folder, name):
    out = folder / f"{name}-run"
    out.mkdir()
    rewards = np.eye(4)[:2]
    shape = shape_table(advantage_shape(rewards, rewards - 0.25, 2 * rewards - 0.5))
    lines = [
        {"kind": "metrics", "run": name, "step": 2, "time": 1, "values": {"reward": 0.5}},
        {"kind": "metrics", "run": name, "step": 1, "time": 2, "values": {"reward": float("nan")}},
        {"kind": "metrics", "run": name, "step": 2, "time": 3, "values": {"reward": 0.9}},
        {"kind": "table", "name": "advantage_shape", "step": 2, "data": shape},
    ]
    (out / "spool.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    scores = {name: scored(folder, name) for name in reversed(POLICIES)}
    runs = {name: trained(folder, name) for name in POLICIES if name != "base"}
    solutions = {
        "benchmark": ["T1", "T1", "T3"],
        "log_probabilities": [[np.log(0.5)] * 2, [np.log(0.25)], [0.0]],
    }
    pq.write_table(pa.table(solutions), scores["base"] / "solutions.parquet")
    analyse(CONFIG, scores=scores, runs=runs, out=folder / "out")
    return scores, runs, folder / "out"


@pytest.fixture(scope="module")
def tables(study):
    return json.loads((study[2] / "tables.json").read_text())


@pytest.fixture(scope="module")
def summary(study):
    return json.loads((study[2] / "summary.json").read_text())


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_have_the_agreed_columns(tables, name):
    assert tables[name]
    assert all(set(row) == COLUMNS[name] for row in tables[name])


def test_study_fields_say_what_was_compared(tables):
    assert tables["study"] == {
        "name": "study",
        "split": "development",
        "ks": [1, 4],
        "headline_k": 4,
        "headline_beta": 4.0,
        "resamples": 200,
        "level": 0.95,
        "seeds": [0, 1],
        "n_samples": 16,
        "n_prompts": 12,
        "benchmarks": ["T1", "T3"],
    }


def test_policies_come_in_the_order_of_methods(tables):
    assert list(dict.fromkeys(row["policy"] for row in tables["passk"])) == list(POLICIES)
    assert list(dict.fromkeys(row["label"] for row in tables["methods"])) == [
        "base",
        "GRPO",
        "RS-GRPO β=0",
        "RS-GRPO β=4",
    ]


def test_a_method_is_the_mean_of_its_seeds(tables):
    def at(rows, **wanted):
        (row,) = [r for r in rows if all(r[key] == value for key, value in wanted.items())]
        return row

    where = {"benchmark": "mean", "k": 4, "method": "rs_grpo", "risk_beta": 4.0}
    seeds = [at(tables["passk"], **where, seed=seed)["pass_at_k"] for seed in (0, 1)]
    row = at(tables["methods"], **where)
    assert row["pass_at_k"] == pytest.approx(np.mean(seeds))
    assert row["seeds"] == [0, 1]
    base = at(tables["methods"], benchmark="mean", k=4, method="base")
    found = at(tables["differences"], **where, baseline="base")
    assert found["difference"] == pytest.approx(row["pass_at_k"] - base["pass_at_k"])


def test_differences_are_taken_to_base_and_to_grpo(tables):
    pairs = {(row["label"], row["baseline"]) for row in tables["differences"]}
    assert pairs == {
        ("GRPO", "base"),
        ("RS-GRPO β=0", "base"),
        ("RS-GRPO β=4", "base"),
        ("RS-GRPO β=0", "grpo"),
        ("RS-GRPO β=4", "grpo"),
    }


def test_tradeoff_has_a_point_for_each_method(tables):
    found = tables["tradeoff"]
    assert set(found) == {"k", "rule", "knee", "knee_share", "points"}
    bounds = {f"pass_at_{k}{part}" for k in "1k" for part in ("", "_low", "_high")}
    assert all(
        set(point) == METHOD | bounds | {"on_front", "front_share"} for point in found["points"]
    )
    assert [point["label"] for point in found["points"] if point["on_front"]] == ["RS-GRPO β=4"]
    assert (found["k"], found["knee"], found["knee_share"]) == (4, None, None)


def test_dynamics_keep_the_first_record_in_order_of_steps(tables):
    row = tables["dynamics"][0]
    assert (row["policy"], row["metric"]) == ("grpo-seed0", "reward")
    assert (row["steps"], row["values"]) == ([1, 2], [None, 0.5])


def test_unique_solutions_never_pass_their_denominator(tables):
    for row in tables["unique"]:
        assert row["unique_trees"] <= row["n_trees"]
        assert row["unique_trees"] <= row["unique_solutions"] <= row["n_solutions"]
        assert len(row["per_prompt_trees"]) == len(row["per_prompt_n_trees"]) == row["n_prompts"]


def test_every_run_is_diagnosed_with_the_studys_base(tables):
    found = {(row["policy"], row["signature"]): row for row in tables["diagnosis"]}
    signatures = ("entropy_collapse", "gradient_instability", "base_overtakes")
    assert list(found) == [(p, s) for p in POLICIES if p != "base" for s in signatures]
    for policy in POLICIES:
        if policy != "base":
            assert found[policy, "entropy_collapse"]["found"] == "unknown"
            assert "0 steps with an entropy" in found[policy, "entropy_collapse"]["evidence"]
            overtaken = found[policy, "base_overtakes"]
            assert overtaken["found"] == "no" and overtaken["low"] > 0


def test_transitions_add_up_to_the_prompts(tables):
    kinds = ("solved_solved", "solved_unsolved", "unsolved_solved", "unsolved_unsolved")
    assert all(sum(row[k] for k in kinds) == row["n_prompts"] for row in tables["transitions"])
    assert {row["benchmark"] for row in tables["transitions"]} == {"all", "T1", "T3"}


def test_summary_rows_have_the_agreed_columns(summary, tables):
    assert set(summary) == {"rows", "headline", "sentence"}
    wanted = IDENTITY | INTERVAL | {"benchmark", "k", "pass_at_k", "n_samples", "n_prompts"}
    assert all(set(row) == wanted for row in summary["rows"])
    assert len(summary["rows"]) == len(tables["passk"]) == 6 * 3 * 2


def test_summary_speaks_of_the_asked_beta(summary):
    assert summary["sentence"].startswith("RS-GRPO (beta 4) solves ")
    assert "of held-out problems within 4 attempts, +" in summary["sentence"]
    assert (
        "(12 prompts x 16 samples, uniform mean of 2 benchmarks, seeds 0, 1, 95% paired boot"
        in (summary["sentence"])
    )
    assert summary["headline"]["over"]["base"]["low"] > 0


def test_the_same_inputs_give_the_same_bytes(study, tmp_path):
    scores, runs, out = study
    analyse(CONFIG, scores=dict(reversed(scores.items())), runs=runs, out=tmp_path)
    for name in ("tables.json", "summary.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_an_evaluation_without_training(study, tmp_path):
    scores, _, _ = study
    analyse(CONFIG, scores={"base": scores["base"]}, runs={}, out=tmp_path)
    tables = json.loads((tmp_path / "tables.json").read_text())
    assert tables["differences"] == tables["transitions"] == tables["dynamics"] == []
    assert tables["study"]["seeds"] == [0]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sentence"].startswith("The base policy solves ")
    assert summary["headline"]["over"] == {"grpo": None, "base": None}


def test_policies_with_fewer_samples_set_the_common_n(study, tmp_path):
    scores, _, _ = study
    few = scored(tmp_path, "grpo-seed1", n=8)
    analyse(CONFIG, scores={"base": scores["base"], "few": few}, runs={}, out=tmp_path / "out")
    tables = json.loads((tmp_path / "out" / "tables.json").read_text())
    assert tables["study"]["n_samples"] == 8
    assert {row["n_samples"] for row in tables["unique"] + tables["transitions"]} == {8}


def test_the_headline_k_falls_back_to_one_that_was_drawn(study, tmp_path):
    scores, _, _ = study
    config = Config.model_validate({"evaluation": {"resamples": 200, "ks": [1, 8, 64]}})
    analyse(config, scores=scores, runs={}, out=tmp_path)
    tables = json.loads((tmp_path / "tables.json").read_text())
    assert tables["study"]["headline_k"] == tables["tradeoff"]["k"] == 8


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda scores, runs: scores.clear() or runs.clear(), "no score to analyse"),
        (lambda scores, _: scores.pop("grpo-seed0"), "run but no score for grpo-seed0"),
        (lambda scores, _: scores.update(base=scores["base"].parent), "passk.json does not exist"),
        (lambda _, runs: runs.update({"grpo-seed0": runs["grpo-seed0"].parent}), "spool.jsonl"),
    ],
)
def test_refuses_in_one_sentence(study, tmp_path, spoil, message):
    scores, runs = dict(study[0]), dict(study[1])
    spoil(scores, runs)
    with pytest.raises(UserError, match=message):
        analyse(CONFIG, scores=scores, runs=runs, out=tmp_path)


def test_refuses_policies_scored_on_different_prompts(study, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    source = study[0]["grpo-seed0"]
    table = pq.read_table(source / "prompts.parquet")
    pq.write_table(table.slice(1), other / "prompts.parquet")
    (other / "passk.json").write_text((source / "passk.json").read_text())
    with pytest.raises(UserError, match="grpo-seed0 and base were scored on different prompts"):
        analyse(CONFIG, scores={"base": study[0]["base"], "o": other}, runs={}, out=tmp_path)


@pytest.mark.parametrize(
    ("method", "beta", "label"),
    [
        ("base", None, "base"),
        ("grpo", None, "GRPO"),
        ("dr_grpo", None, "Dr. GRPO"),
        ("rs_grpo", 4.0, "RS-GRPO β=4"),
        ("rs_grpo", 0.5, "RS-GRPO β=0.5"),
        ("rs_grpo", None, "RS-GRPO"),
    ],
)
def test_labels(method, beta, label):
    assert method_label(method, beta) == label
