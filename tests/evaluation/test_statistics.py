"""Rows of pass@k, avg@n and maj@k; which mean is named how; and the verb that prints them."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from rsgrpo.errors import UserError
from rsgrpo.evaluation.answers import read_answers
from rsgrpo.evaluation.commands import passk
from rsgrpo.evaluation.passk import pass_at_k, prompt_interval, sampling_interval
from rsgrpo.evaluation.statistics import largest_k, powers_of_two, statistic_rows, views
from rsgrpo.records import StatisticRow
from tests.evaluation.graded_rows import samples, write

SIX = ("aime24", "aime25", "hmmt_feb24", "hmmt_feb25", "cmimc25", "math500")


def rows_of(path: Path, ks: tuple[int, ...]) -> dict[tuple[str, str, int | None], StatisticRow]:
    rows = statistic_rows(read_answers([path]), ks, resamples=200)
    found = {(row.metric, row.benchmark, row.k): row for row in rows}
    assert len(found) == len(rows)
    return found


def printed(capsys: pytest.CaptureFixture[str], *places: Path, **options: object) -> list[dict]:
    passk(list(places), as_json=True, **{"resamples": 200, **options})  # type: ignore[arg-type]
    rows: list[dict] = json.loads(capsys.readouterr().out)
    return rows


def test_three_metrics_each_with_n_and_both_intervals(tmp_path: Path) -> None:
    rows = samples("a", "1", "ccxxx--c") + samples("a", "2", "xxxyyccc") + samples("b", "1", "cxyz")
    found = rows_of(write(tmp_path / "g.parquet", rows), (1, 4))
    places = [("a", 8, 2), ("b", 4, 1), ("mean", 4, 3)]
    assert list(found) == [
        *[("pass@k", name, k) for name, _, _ in places for k in (1, 4)],
        *[("avg@n", name, None) for name, _, _ in places],
        *[("maj@k", name, k) for name, _, _ in places for k in (1, 4)],
    ]
    for (_, name, _), row in found.items():
        assert (row.benchmark, row.n_samples, row.n_prompts) in places and row.benchmark == name
        assert 0 <= row.low <= row.value <= row.high <= 1
        assert 0 <= row.sampling_low <= row.value <= row.sampling_high <= 1
    for metric in ("pass@k", "maj@k"):
        assert found[metric, "a", 1].value == pytest.approx(3 / 8)
        assert found[metric, "mean", 1].value == pytest.approx((3 / 8 + 1 / 4) / 2)
    assert found["avg@n", "a", None].value == pytest.approx(3 / 8)
    assert found["maj@k", "b", 4].value == pytest.approx(1 / 4)
    assert found["pass@k", "b", 4].value == 1


def test_pass_at_k_and_its_intervals_are_those_of_the_functions(tmp_path: Path) -> None:
    rows = [row for p in range(9) for row in samples("a", str(p), "c" * p + "x" * (16 - p))]
    found = rows_of(write(tmp_path / "g.parquet", rows), (4,))["pass@k", "a", 4]
    c_P, n_P = list(range(9)), [16] * 9
    passk_PK = pass_at_k(c_P, n_P, (4,))
    assert found.value == pytest.approx(passk_PK.mean())
    for low, high, interval in (
        (found.low, found.high, prompt_interval(passk_PK, resamples=200)),
        (
            found.sampling_low,
            found.sampling_high,
            sampling_interval(c_P, n_P, (4,), resamples=200),
        ),
    ):
        assert [low, high] == pytest.approx([interval.low_K[0], interval.high_K[0]])


def test_avg_at_n_is_accuracy_with_the_intervals_of_pass_at_1(tmp_path: Path) -> None:
    rows = [row for p in range(9) for row in samples("a", str(p), "c" * p + "x" * (16 - p))]
    found = rows_of(write(tmp_path / "g.parquet", rows), (1,))
    average, first = found["avg@n", "a", None], found["pass@k", "a", 1]
    assert average._replace(metric="", k=0) == first._replace(metric="", k=0)


def test_the_mean_of_six_is_for_k_up_to_32_and_a_labelled_mean_of_five_above(
    tmp_path: Path,
) -> None:
    rows = []
    for at, name in enumerate(SIX):
        n = 32 if name == "math500" else 256
        rows += samples(name, "1", "c" * (at + 1) + "x" * (n - at - 1))
    found = rows_of(write(tmp_path / "g.parquet", rows), powers_of_two(256))
    five = "mean of 5 (without math500)"
    for metric in ("pass@k", "maj@k"):
        assert [k for m, name, k in found if (m, name) == (metric, "mean")] == [1, 2, 4, 8, 16, 32]
        assert [k for m, name, k in found if (m, name) == (metric, five)] == [64, 128, 256]
        for k in (64, 256):
            parts = [found[metric, name, k] for name in SIX]
            assert math.isnan(parts[-1].value) and math.isnan(parts[-1].sampling_low)
            mean = np.mean([part.value for part in parts[:-1]])
            assert found[metric, five, k].value == pytest.approx(mean)
            assert (found[metric, five, k].n_samples, found[metric, five, k].n_prompts) == (256, 5)
        mean = np.mean([found[metric, name, 32].value for name in SIX])
        assert found[metric, "mean", 32].value == pytest.approx(mean)
        assert (found[metric, "mean", 32].n_samples, found[metric, "mean", 32].n_prompts) == (32, 6)
    assert found["avg@n", "mean", None].value == pytest.approx((15 / 256 + 6 / 32) / 6)


def test_benchmarks_with_equal_n_have_one_mean_and_a_single_one_has_none() -> None:
    names, n_P = np.array(["a", "b", "c"]), np.array([8, 8, 8])
    assert [view.name for view in views(names, n_P, (1, 8))] == ["a", "b", "c", "mean"]
    assert [view.name for view in views(names[:1], n_P[:1], (1, 8))] == ["a"]


def test_a_mean_needs_two_benchmarks_that_have_the_samples() -> None:
    names, n_P = np.array(["a", "b", "c", "c"]), np.array([4, 16, 16, 8])
    means = list(views(names, n_P, (4, 8, 16)))[3:]
    assert [(view.name, view.chosen_P.tolist(), view.ks) for view in means] == [
        ("mean", [0, 1, 2, 3], (4, 16)),
        ("mean of 2 (without a)", [1, 2, 3], (8,)),
    ]


def test_k_are_powers_of_two_up_to_the_largest_that_a_benchmark_has() -> None:
    names = np.array(["a", "a", "b"])
    assert largest_k(names, np.array([64, 48, 32])) == 48
    assert powers_of_two(48) == (1, 2, 4, 8, 16, 32)


def test_the_verb_prints_null_where_n_is_below_k_and_warns_above_a_quarter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = samples("long", "1", "cxxxxxxx") + samples("short", "1", "cxxx")
    rows = printed(capsys, write(tmp_path / "g.parquet", rows), k="1,2,8")
    at = {(row["metric"], row["benchmark"], row["k"]): row for row in rows}
    assert at["pass@k", "short", 8]["value"] is None and at["maj@k", "mean", 8]["low"] is None
    assert at["pass@k", "long", 8]["value"] == 1
    assert at["pass@k", "long", 2]["warnings"] == []
    assert at["pass@k", "short", 2]["warnings"] == [
        "short: k is above n/4 = 1, where intervals are not to be trusted"
    ]
    assert "only n=4 samples" in at["maj@k", "short", 8]["warnings"][0]
    assert list(rows[0]) == [*StatisticRow._fields, "warnings"]


def test_csv_has_an_empty_field_where_json_has_null_and_warnings_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = samples("long", "1", "cxxxxxxx") + samples("short", "1", "cxxx")
    passk([write(tmp_path / "g.parquet", rows)], k="1,8", resamples=200, as_csv=True)
    shown = capsys.readouterr()
    table = list(csv.DictReader(io.StringIO(shown.out)))
    assert list(table[0]) == list(StatisticRow._fields)
    [missing] = [
        row
        for row in table
        if (row["metric"], row["benchmark"], row["k"]) == ("pass@k", "short", "8")
    ]
    assert (missing["value"], missing["low"], missing["n_samples"]) == ("", "", "4")
    assert {row["k"] for row in table if row["metric"] == "avg@n"} == {""}
    warnings = shown.err.splitlines()
    assert len(warnings) == len(set(warnings)) and all("warning: " in line for line in warnings)


def test_folders_and_several_files_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        write(tmp_path / name / "graded.parquet", samples(name, "1", "cx"))
    rows = printed(capsys, tmp_path / "a", tmp_path / "b" / "graded.parquet")
    assert {row["benchmark"] for row in rows} == {"a", "b", "mean"}
    some = printed(capsys, tmp_path / "a", tmp_path / "b", benchmarks="b")
    assert {row["benchmark"] for row in some} == {"b"}


def test_files_without_answers_have_no_maj_at_k(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"benchmark": "a", "problem_id": "1", "correct": i == 0} for i in range(4)]
    found = printed(capsys, write(tmp_path / "g.parquet", rows))
    assert {row["metric"] for row in found} == {"pass@k", "avg@n"}


@pytest.mark.parametrize(
    ("k", "message"),
    [
        ("8", "k=8 is above the 4 samples that a prompt has at most"),
        ("0,1", "every k must be at least 1"),
        ("one", "write whole numbers"),
        ("", "write whole numbers"),
    ],
)
def test_a_k_that_no_prompt_has_is_one_sentence(tmp_path: Path, k: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as fault:
        passk([write(tmp_path / "g.parquet", samples("a", "1", "cxxx"))], k=k)
    assert "\n" not in str(fault.value)
