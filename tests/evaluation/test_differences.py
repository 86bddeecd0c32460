"""`rsgrpo compare`: paired differences of graded files, and Holm's correction."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from rsgrpo.errors import UserError
from rsgrpo.evaluation.commands import compare
from rsgrpo.evaluation.compare import holm, paired_difference
from rsgrpo.evaluation.differences import DifferenceRow, difference_rows
from rsgrpo.evaluation.passk import pass_at_k
from tests.evaluation.graded_rows import samples, write


def policy(path: Path, counts: list[int], n: int = 16, benchmark: str = "a") -> Path:
    """A graded file of prompts with so many correct samples each."""
    texts = [(str(p), "c" * c + "x" * (n - c)) for p, c in enumerate(counts)]
    return write(path, [row for p, text in texts for row in samples(benchmark, p, text)])


def test_the_difference_is_b_minus_a_with_the_interval_of_the_paired_bootstrap(
    tmp_path: Path,
) -> None:
    a, b = [0, 3, 9, 16, 5, 2], [4, 6, 9, 15, 8, 2]
    files = policy(tmp_path / "a.parquet", a), policy(tmp_path / "b.parquet", b)
    [row] = difference_rows(files[:1], files[1:], (4,), resamples=500)
    passk_A, passk_B = (pass_at_k(c_P, [16] * 6, (4,)) for c_P in (a, b))
    wanted = paired_difference([passk_B], [passk_A], resamples=500)
    assert (row.a, row.b) == pytest.approx((passk_A.mean(), passk_B.mean()))
    assert row.b_minus_a == pytest.approx(row.b - row.a) and row.b_minus_a > 0
    assert [row.low, row.high, row.p_value] == pytest.approx([float(v[0]) for v in wanted[1:]])
    assert row.p_holm == row.p_value
    assert (row.n_samples_a, row.n_samples_b, row.n_prompts) == (16, 16, 6)


def test_prompts_are_paired_whatever_their_order_in_the_files(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 16, 40).tolist()
    first = policy(tmp_path / "a.parquet", counts)
    rows = [
        row
        for p in reversed(range(40))
        for row in samples("a", str(p), "c" * (counts[p] + 1) + "x" * (15 - counts[p]))
    ]
    [row] = difference_rows([first], [write(tmp_path / "b.parquet", rows)], (1,))
    assert [row.b_minus_a, row.low, row.high] == pytest.approx([1 / 16] * 3)


def test_files_graded_by_hand_are_compared_whatever_their_names(tmp_path: Path) -> None:
    first = policy(tmp_path / "a.parquet", [4, 8], benchmark="monday")
    second = policy(tmp_path / "b.parquet", [8, 8], benchmark="tuesday")
    [row] = difference_rows([first], [second], (1,))
    assert row.benchmark == "monday" and row.b_minus_a == pytest.approx(1 / 8)


def test_two_named_data_sets_are_never_taken_for_one(tmp_path: Path) -> None:
    first = policy(tmp_path / "a.parquet", [4, 8], benchmark="aime24")
    second = policy(tmp_path / "b.parquet", [8, 8], benchmark="aime25")
    with pytest.raises(UserError, match="problem 0 of aime24"):
        difference_rows([first], [second], (1,))


def test_an_id_that_stands_for_two_problems_is_refused(tmp_path: Path) -> None:
    def file(name: str, text: str, gold: str, benchmark: str) -> Path:
        known = {"problem": text, "answer": gold}
        rows = [{**row, **known} for row in samples(benchmark, "0", "cx")]
        return write(tmp_path / f"{name}.parquet", rows)

    first = file("a", "1 + 1?", "2", "monday")
    for benchmark in ("monday", "tuesday"):
        with pytest.raises(
            UserError, match=r"problem 0 of .* '3' in .*b\.parquet, '2' in .*a\.par"
        ):
            difference_rows([first], [file("b", "1 + 2?", "3", benchmark)], (1,))
    # Another spelling of the one or the other is the same problem still.
    for text, gold in (("1+1?", "2"), ("1 + 1?", "2.0")):
        assert difference_rows([first], [file("b", text, gold, "monday")], (1,))


def test_seeds_are_averaged_and_widen_the_interval(tmp_path: Path) -> None:
    base = policy(tmp_path / "base.parquet", [8] * 30)
    seeds = [policy(tmp_path / f"{c}.parquet", [c] * 30) for c in (6, 12)]
    [row] = difference_rows([base], seeds, (1,))
    assert (row.seeds_a, row.seeds_b) == (1, 2)
    assert row.b_minus_a == pytest.approx(1 / 16)
    assert row.low < 0 < row.high
    [alone] = difference_rows([base], seeds[1:], (1,))
    assert [alone.low, alone.high] == pytest.approx([0.25, 0.25])


@pytest.mark.parametrize(("count", "warned"), [(1, False), (2, True), (4, True), (5, False)])
def test_few_seeds_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, warned: bool
) -> None:
    base = policy(tmp_path / "base.parquet", [8] * 3)
    seeds = [str(policy(tmp_path / f"{seed}.parquet", [seed] * 3)) for seed in range(count)]
    compare(str(base), ",".join(seeds), k="1", as_json=True)
    [row] = json.loads(capsys.readouterr().out)
    assert any(f"a side has {count} seeds" in text for text in row["warnings"]) == warned
    assert bool(row["warnings"]) == warned


def test_sides_may_differ_in_n_and_the_smaller_one_decides_which_mean_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, sizes in {"a": (16, 16, 16), "b": (16, 8, 32)}.items():
        rows = []
        for benchmark, n in zip(("x", "y", "z"), sizes, strict=True):
            rows += samples(benchmark, "1", "cc" + "w" * (n - 2))
        write(tmp_path / f"{name}.parquet", rows)
    places = str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")
    compare(*places, k="8,16", as_json=True)
    rows = {(row["benchmark"], row["k"]): row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [
        *itertools.product("xyz", (8, 16)),
        ("mean", 8),
        ("mean of 2 (without y)", 16),
    ]
    short = rows["y", 16]
    assert short["b_minus_a"] is short["p_value"] is short["p_holm"] is short["b"] is None
    assert (short["a"], short["n_samples_a"], short["n_samples_b"]) == (1.0, 16, 8)
    assert rows["z", 8]["n_samples_b"] == 32
    assert "n/4 = 4" in rows["z", 8]["warnings"][0]
    assert "only n=8 samples" in short["warnings"][0]
    assert list(short) == [*DifferenceRow._fields, "warnings"]


def test_holm_by_hand() -> None:
    # Sorted .01 x 4, .03 x 3 and .04 x 2, none below the one before it, and at most 1.
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.9]), [0.09, 0.04, 0.09, 0.9])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])
    np.testing.assert_allclose(holm([0.02]), [0.02])
    np.testing.assert_allclose(holm([0.02, math.nan, 0.03]), [0.04, math.nan, 0.04])
    assert holm([]).size == 0


def test_holm_rejects_what_closed_testing_with_bonferroni_rejects() -> None:
    """Holm is the closure of Bonferroni: a test's p-value is the largest of any set it is in."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        p_K = rng.random(5) ** 3
        sets = [chosen for size in range(1, 6) for chosen in itertools.combinations(range(5), size)]
        closed = [
            max(min(1, len(s) * min(p_K[list(s)])) for s in sets if test in s) for test in range(5)
        ]
        np.testing.assert_allclose(holm(p_K), closed)


def test_the_family_is_the_k_of_one_benchmark_and_the_means_are_one_family(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    files = []
    for name in "ab":
        rows = []
        for benchmark, n in (("x", 32), ("y", 32), ("z", 8)):
            for p in range(12):
                c = int(rng.integers(0, n // 2)) + (name == "b")
                rows += samples(benchmark, str(p), "c" * c + "w" * (n - c))
        files.append(write(tmp_path / f"{name}.parquet", rows))
    rows = difference_rows(files[:1], files[1:], (1, 4, 16), resamples=500)
    families = [[row for row in rows if row.benchmark == name] for name in ("x", "y", "z")] + [
        [row for row in rows if row.benchmark.startswith("mean")]
    ]
    assert [row.benchmark for row in families[3]] == ["mean", "mean", "mean of 2 (without z)"]
    for family in families:
        wanted = holm([row.p_value for row in family])
        np.testing.assert_allclose([row.p_holm for row in family], wanted)
    assert any(row.p_holm > row.p_value for row in rows)


def test_under_the_null_a_difference_is_found_about_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(3)
    trials, rejected, any_rejected = 400, 0, 0
    for trial in range(trials):
        p_P = rng.beta(0.6, 1.2, 60)
        sides = [pass_at_k(rng.binomial(64, p_P), [64] * 60, (1, 4, 16)) for _ in range(2)]
        found = paired_difference(sides[:1], sides[1:], resamples=300, seed=trial)
        rejected += found.p_value_K[0] < 0.05
        any_rejected += holm(found.p_value_K).min() < 0.05
    assert 0.02 < rejected / trials < 0.08
    assert any_rejected / trials < 0.08


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ([5, 5], r"problem 2 of a is in .*a\.parquet and not in .*b\.parquet"),
        ([5, 5, 5, 5], r"problem 3 of a is in .*b\.parquet and not in .*a\.parquet"),
    ],
)
def test_other_prompts_are_refused_and_the_first_one_is_named(
    tmp_path: Path, other: list[int], message: str
) -> None:
    first = policy(tmp_path / "a.parquet", [5, 5, 5])
    with pytest.raises(UserError, match=message) as fault:
        difference_rows([first], [policy(tmp_path / "b.parquet", other)], (1,))
    assert "--benchmarks" in str(fault.value) and "\n" not in str(fault.value)


def test_a_benchmark_that_both_have_can_be_compared_alone(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", samples("x", "1", "cw") + samples("y", "1", "cw"))
    second = write(tmp_path / "b.parquet", samples("x", "1", "cc"))
    [row] = difference_rows([first], [second], (1,), benchmarks=["x"])
    assert row.b_minus_a == 0.5


def test_bad_sides_are_one_sentence(tmp_path: Path) -> None:
    first = policy(tmp_path / "a.parquet", [1, 2], n=4)
    with pytest.raises(UserError, match="k=8 is above the 4 samples"):
        compare(str(first), str(first), k="8")
    with pytest.raises(UserError, match=r"none\.parquet does not exist"):
        compare(str(first), f"{first},{tmp_path / 'none.parquet'}")
    with pytest.raises(UserError, match="names no file"):
        compare(",", str(first))


def test_a_name_with_a_comma_is_one_file_and_a_seed_is_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = policy(tmp_path / "a.parquet", [4, 8])
    second = policy(tmp_path / "b, c.parquet", [8, 8])
    compare(str(first), str(second), k="1", as_json=True)
    [row] = json.loads(capsys.readouterr().out)
    assert (row["seeds_b"], row["b"]) == (1, 0.5)
    with pytest.raises(UserError, match="twice: give each seed's file once"):
        compare(str(first), f"{first},{tmp_path / '.' / 'a.parquet'}")
