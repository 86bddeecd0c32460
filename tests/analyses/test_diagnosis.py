"""The failure signatures on series and counts made by hand: exact numbers, and three answers."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsgrpo.analyses.diagnosis import (
    diagnose,
    entropy_collapse,
    gradient_instability,
    spike_steps,
)
from rsgrpo.analyses.dynamics import read_spool
from rsgrpo.analyses.overtaking import crossing, grid, overtaking
from rsgrpo.errors import UserError
from rsgrpo.tracking.spool import Spool
from tests.analyses.test_solve_rate import analyse

SHARP = {("b", f"p{i}"): (c, 64) for i, c in enumerate([64] * 10 + [0] * 10)}
BROAD = {("b", f"p{i}"): (c, 64) for i, c in enumerate([16] * 10 + [8] * 10)}


def series(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values, 1))


def test_entropy_that_falls_and_stays_is_a_collapse() -> None:
    found = entropy_collapse(series([2.0] * 10 + [0.1] * 30))
    assert found[1:5] == ("yes", 0.05, 0.05, 0.05)
    assert "below it since step 11" in found.evidence
    assert "learning rate" in found.next_step and "20%" in found.rule


def test_entropy_that_falls_by_half_or_comes_back_is_none() -> None:
    assert entropy_collapse(series([2.0] * 20 + [1.0] * 20)).found == "no"
    assert entropy_collapse(series([2.0] * 10 + [0.1] * 20 + [1.0] * 10)).found == "no"


def test_entropy_near_the_threshold_is_unknown() -> None:
    last = [0.1, 0.75, 0.1, 0.7, 0.1, 0.1, 0.75, 0.1]
    found = entropy_collapse(series([2.0] * 32 + last))
    assert found.value < 0.2 < found.high
    assert found.found == "unknown" and "train for more steps" in found.next_step


def test_too_few_steps_of_entropy_are_unknown() -> None:
    found = entropy_collapse(series([2.0] * 9))
    assert found.found == "unknown" and "9 steps with an entropy, 10 are needed" in found.evidence
    assert math.isnan(found.value)


def test_the_entropy_interval_holds_the_ratio_of_noisy_steps() -> None:
    """200 runs of independent noise: at least 170 intervals hold the true ratio 0.25.

    A bootstrap of a mean errs on the narrow side, so 190 are not demanded of windows of 40 steps.
    """
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        values = np.concatenate([rng.normal(2, 0.2, 40), rng.normal(0.5, 0.05, 160)])
        found = entropy_collapse(series(values.tolist()), resamples=400)
        held += found.low <= 0.25 <= found.high
    assert held >= 170


@pytest.mark.parametrize("metric", ["loss", "grad_norm", "entropy", "mean_abs_advantage"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_an_overflow(metric: str, value: float) -> None:
    metrics = {name: series([1.0] * 20) for name in ("loss", "grad_norm", "mean_abs_advantage")}
    metrics[metric] = {**series([1.0] * 20), 7: value}
    found = gradient_instability(metrics)
    assert found.found == "yes"
    assert f"{metric} overflowed in 1 steps, first in step 7" in found.evidence


def test_an_advantage_that_float16_cannot_hold_is_an_overflow() -> None:
    at = {"grad_norm": series([1.0] * 20)}
    assert gradient_instability({**at, "mean_abs_advantage": {3: 65504.0}}).found == "no"
    assert gradient_instability({**at, "mean_abs_advantage": {3: 65505.0}}).found == "yes"


def test_spikes_are_counted_against_the_median_before() -> None:
    norms = series([1.0] * 10 + [10.0, 10.1] + [1.0] * 8)
    assert spike_steps(norms) == [12]
    assert spike_steps(series([1.0, 100.0, 1.0, 1.0])) == []  # too little went before
    assert spike_steps(series([0.0] * 10 + [5.0] * 3)) == []  # silent steps are no median


def test_a_lone_spike_is_none_and_many_are_an_instability() -> None:
    calm = [1.0] * 100
    assert gradient_instability({"grad_norm": series(calm)}).found == "no"
    lone = gradient_instability({"grad_norm": {**series(calm), 50: 99.0}})
    assert (lone.found, lone.value) == ("no", 0.01)
    many = dict.fromkeys(range(10, 100, 7), 99.0)
    found = gradient_instability({"grad_norm": series(calm) | many})
    assert (found.found, found.value) == ("yes", 0.13)
    assert found.low == pytest.approx(0.0776, abs=1e-4)


@pytest.mark.filterwarnings("error")
def test_an_entropy_that_is_0_almost_from_the_start_has_no_bound_and_no_warning() -> None:
    found = entropy_collapse(series([1.0] + [0.0] * 29))
    assert (found.found, found.value, math.isnan(found.high)) == ("unknown", 0.0, True)


def test_too_few_steps_to_meet_a_jump_are_unknown() -> None:
    short = gradient_instability({"grad_norm": series([1.0] * 9)})
    assert (short.found, math.isnan(short.low)) == ("unknown", True)
    assert short.evidence == "9 steps with a gradient norm, 10 are needed"
    assert gradient_instability({"grad_norm": series([1.0] * 10)}).found == "no"
    assert gradient_instability({}).found == "unknown"


def test_an_overflow_needs_no_gradient_norm() -> None:
    found = gradient_instability({"loss": series([math.nan] * 3), "grad_norm": {1: 1.0}})
    assert (found.found, found.value) == ("yes", 1.0)


def test_a_run_that_died_says_so() -> None:
    found = gradient_instability({"grad_norm": {1: math.nan}}, status="FAILED")
    assert found.found == "yes" and found.evidence.endswith("run ended FAILED")


def exact(counts: dict[tuple[str, str], tuple[int, int]], k: int) -> Fraction:
    misses = [Fraction(comb(n - c, k), comb(n, k)) for c, n in counts.values()]
    return 1 - sum(misses, Fraction(0)) / len(misses)


def test_the_base_overtakes_where_exact_fractions_cross() -> None:
    found = overtaking(SHARP, BROAD)
    brute = [k for k in range(1, 17) if exact(SHARP, k) <= exact(BROAD, k)]
    assert brute == list(range(brute[0], 17))
    assert (found.found, found.high_k, found.crossing) == ("yes", 16, brute[0])
    assert found.at_high == pytest.approx(float(exact(SHARP, 16) - exact(BROAD, 16)), abs=1e-12)
    assert found.low <= found.at_high <= found.high < 0
    assert f"the curves cross at k={brute[0]}" in found.evidence


def test_the_crossing_and_its_interval_equal_a_loop_over_resamples() -> None:
    """Six prompts: every resample of the bootstrap drawn in Python, pass@k from fractions."""
    few = [dict(itertools.islice(c.items(), 7, 13)) for c in (SHARP, BROAD)]
    found = overtaking(*few, high_k=8, resamples=4000)
    rng = np.random.default_rng(7)
    keys, crossings = list(few[0]), []
    table = [[[float(exact({key: c[key]}, k)) for k in range(1, 9)] for key in keys] for c in few]
    for _ in range(4000):
        rows = rng.integers(0, 6, 6)
        sharp, broad = (np.mean([of[row] for row in rows], axis=0) for of in table)
        crossings.append(crossing(list(range(1, 9)), sharp - broad))
    crossed = [k for k in crossings if not math.isnan(k)]
    low, high = np.quantile(crossed, (0.025, 0.975))
    assert (found.crossing_low, found.crossing_high) == (low, high)
    assert found.crossing_share == pytest.approx(len(crossed) / 4000, abs=0.03)


def test_a_policy_that_is_better_everywhere_or_worse_at_k_1_is_not_overtaken() -> None:
    assert overtaking(BROAD, SHARP).found == "no"
    better = {key: (min(c + 8, 64), n) for key, (c, n) in BROAD.items()}
    assert overtaking(better, BROAD).found == "no"
    assert overtaking(BROAD, BROAD).found == "no"


def test_a_difference_within_its_interval_is_unknown() -> None:
    policy = {("b", f"p{i}"): (c, 64) for i, c in enumerate([64] * 3 + [1] * 2 + [0])}
    base = {("b", f"p{i}"): (c, 64) for i, c in enumerate([20] * 3 + [1, 1, 3])}
    found = overtaking(policy, base)
    assert found.at_high < 0 <= found.high
    assert found.found == "unknown"


def test_other_prompts_or_too_few_samples_are_unknown() -> None:
    other = overtaking(SHARP, dict(itertools.islice(BROAD.items(), 5)))
    assert other.found == "unknown" and "different prompts (20 and 5)" in other.evidence
    few = {("b", "p"): (1, 4)}
    found = overtaking(few, few)
    assert found.found == "unknown" and "4 samples of a prompt: too few" in found.evidence


def test_the_crossing_is_the_last_change_of_sign() -> None:
    ks = [1, 2, 3, 4]
    assert crossing(ks, np.array([0.1, 0.0, -0.1, -0.2])) == 2
    assert crossing(ks, np.array([0.1, -0.1, 0.1, -0.1])) == 4
    assert math.isnan(crossing(ks, np.array([0.1, -0.1, -0.1, 0.1])))
    assert math.isnan(crossing(ks, np.array([-0.1, -0.1, -0.1, -0.1])))
    assert math.isnan(crossing(ks, np.array([0.1, 0.1, 0.0, 0.0])))  # both solve everything
    assert grid(16) == list(range(1, 17))
    assert grid(256)[0] == 1 and grid(256)[-1] == 256 and len(grid(256)) <= 64


def write_run(folder: Path, entropy: list[float]) -> Path:
    folder.mkdir(parents=True)
    with Spool(folder / "spool.jsonl", "rs-abc") as spool:
        spool.start("rs", "study", tags={"policy": "rs"})
        for step, value in enumerate(entropy, 1):
            spool.metrics(step, {"entropy": value, "grad_norm": 1.0, "loss": 0.1})
        spool.end()
    return folder


def write_graded(folder: Path, counts: dict[tuple[str, str], tuple[int, int]]) -> Path:
    folder.mkdir()
    rows = [
        {"benchmark": b, "problem_id": p, "correct": i < c}
        for (b, p), (c, n) in counts.items()
        for i in range(n)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "graded.parquet")
    return folder


def test_a_spools_nan_is_a_number_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [math.nan, math.inf])
    with (run / "spool.jsonl").open() as lines:
        values = read_spool(lines).metrics["entropy"]
    assert math.isnan(values[1]) and values[2] == math.inf


def test_without_evaluation_overtaking_is_unknown_and_says_why() -> None:
    *_, found = diagnose(None)
    assert found[:2] == ("base_overtakes", "unknown")
    assert found.evidence == "no evaluation of the policy and of the base"
    assert "--graded, --base" in found.next_step


def test_the_verb_prints_rule_evidence_interval_and_next_step(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [2.0] * 10 + [0.1] * 30)
    sharp, broad = (write_graded(tmp_path / name, c) for name, c in (("s", SHARP), ("b", BROAD)))
    more = ["--graded", str(sharp), "--base", str(broad / "graded.parquet")]
    rows = json.loads(analyse("diagnosis", str(run), *more, "--json").stdout)
    assert [(row["signature"], row["found"]) for row in rows] == [
        ("entropy_collapse", "yes"), ("gradient_instability", "no"), ("base_overtakes", "yes"),
    ]  # fmt: skip
    assert all(row[name] for row in rows for name in ("rule", "evidence", "next_step"))
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    shown = analyse("diagnosis", str(run), *more).stdout
    for row in rows:
        assert row["rule"] in shown and row["evidence"] in shown and row["next_step"] in shown
    at_8 = json.loads(analyse("diagnosis", str(run), *more, "--k", "8", "--json").stdout)[2]
    assert at_8["value"] == pytest.approx(float(exact(SHARP, 8) - exact(BROAD, 8)), abs=1e-12)
    assert analyse("diagnosis", str(run), "--csv").stdout.startswith("run,signature,found,value")


def test_files_graded_by_hand_are_compared_whatever_their_names(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [2.0] * 20)
    files = []
    for name, counts in (("sharp", SHARP), ("broad", BROAD)):
        named = {(name, problem): of for (_, problem), of in counts.items()}
        files.append(str(write_graded(tmp_path / name, named)))
    more = ["--graded", files[0], "--base", files[1], "--json"]
    assert json.loads(analyse("diagnosis", str(run), *more).stdout)[2]["found"] == "yes"


def test_a_sample_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [2.0] * 20)
    row = {"benchmark": "b", "problem_id": "p", "sample_index": 0, "correct": True}
    twice = tmp_path / "twice.parquet"
    pq.write_table(pa.Table.from_pylist([row, row]), twice)
    with pytest.raises(UserError, match=r"holds sample 0 of problem p twice"):
        analyse("diagnosis", str(run), "--base", str(twice))


def test_evaluations_of_other_problems_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [2.0] * 20)
    for name in ("one", "two"):
        row = {"benchmark": "b", "problem_id": "p", "correct": True}
        told = {"problem": name, "answer": name}
        pq.write_table(pa.Table.from_pylist([{**row, **told}]), tmp_path / name)
    more = ["--base", str(tmp_path / "one"), "--graded", str(tmp_path / "two")]
    with pytest.raises(UserError, match=r"gold answer 'two' in .*two, 'one' in .*one"):
        analyse("diagnosis", str(run), *more)


def test_the_verb_stores_tags_beside_finished_stages(tmp_path: Path) -> None:
    run = write_run(tmp_path / "train" / "rs-abc", [2.0] * 10 + [0.1] * 30)
    before = (run / "spool.jsonl").read_bytes()
    analyse("diagnosis", str(run), "--tag")
    assert (run / "spool.jsonl").read_bytes() == before
    [record] = [json.loads(line) for line in (tmp_path / "spool.jsonl").read_text().splitlines()]
    assert (record["kind"], record["run"]) == ("tags", "rs-abc")
    assert record["tags"]["diagnosis.entropy_collapse"] == "yes"
    assert record["tags"]["diagnosis.gradient_instability"] == "no"
    assert record["tags"]["diagnosis.base_overtakes"] == "unknown"


def test_faults_of_the_user_are_one_sentence(tmp_path: Path) -> None:
    run = write_run(tmp_path / "train" / "rs-abc", [2.0] * 12)
    write_run(tmp_path / "train" / "rs-abd", [2.0] * 12)
    with pytest.raises(UserError, match="nowhere does not exist"):
        analyse("diagnosis", str(tmp_path / "nowhere"))
    with Spool(tmp_path / "evaluated" / "spool.jsonl", "study") as spool:
        spool.start("study", "study", tags={"stage": "study"})
    with pytest.raises(UserError, match="evaluated holds no training log"):
        analyse("diagnosis", str(tmp_path / "evaluated"))
    with pytest.raises(UserError, match=r"none\.parquet does not exist"):
        analyse("diagnosis", str(run), "--base", str(tmp_path / "none.parquet"))
    graded = write_graded(tmp_path / "g", BROAD)
    with pytest.raises(UserError, match=r"--graded belongs to one run and .* holds 2"):
        analyse("diagnosis", str(tmp_path), "--graded", str(graded))
    with pytest.raises(UserError, match="--graded belongs to one run, not to 2"):
        analyse("diagnosis", str(run), str(run), "--graded", str(graded))
