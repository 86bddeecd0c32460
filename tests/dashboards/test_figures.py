"""What each figure reads from the tables: exact numbers, gaps, budgets and empty tables."""

from __future__ import annotations

import copy
import math
from typing import Any

import plotly.graph_objects as go
import pytest

from dashboards import figures
from dashboards.figures.advantage_histograms import (
    RISK_SENSITIVE,
    STANDARD,
    _get_advantage_info,
    risk_weight,
)
from dashboards.figures.bandit import _get_bandit_info
from dashboards.figures.difference import _get_difference_info
from dashboards.figures.dynamics import METRICS, _get_dynamics_info
from dashboards.figures.passk_grid import _get_passk_grid_info
from dashboards.figures.passk_mean import _get_passk_mean_info
from dashboards.figures.tradeoff import _get_tradeoff_info
from dashboards.figures.transitions import _get_transitions_info
from dashboards.figures.unique_solutions import _get_unique_info, unique_means
from dashboards.theme import MAX_TRACES

PLOTS = [getattr(figures, name) for name in figures.__all__]


def method_rows(benchmark: str, values: list[float | None], label: str = "base") -> list[Any]:
    method = {"base": "base", "GRPO": "grpo"}.get(label, "rs_grpo")
    beta = float(label.rpartition("=")[2]) if method == "rs_grpo" else None
    bounds = {"low": 0.125, "high": 0.75, "n_samples": 8, "n_prompts": 5, "seeds": [3]}
    return [
        {"method": method, "risk_beta": beta, "label": label, "benchmark": benchmark, "k": 2**i}
        | {"pass_at_k": value, **(bounds if value is not None else bounds | _UNKNOWN)}
        for i, value in enumerate(values)
    ]


_UNKNOWN = {"low": None, "high": None}


def bands(figure: go.Figure) -> list[Any]:
    return [trace for trace in figure.data if trace.fill == "toself"]


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("narrow", [False, True])
def test_empty_tables_give_an_empty_figure_with_axes(plot: Any, narrow: bool) -> None:
    figure = plot({}, narrow=narrow)
    assert len(figure.data) == 0
    assert figure.layout.xaxis.domain and figure.layout.yaxis.domain
    assert any(note.text.startswith("No ") for note in figure.layout.annotations)


@pytest.mark.parametrize("plot", PLOTS)
def test_a_figure_has_at_most_fifty_traces(plot: Any, study_tables: dict[str, Any]) -> None:
    assert len(plot(study_tables).data) <= MAX_TRACES


@pytest.mark.parametrize("plot", PLOTS)
def test_wide_and_narrow_figures_show_the_same_data(
    plot: Any, study_tables: dict[str, Any]
) -> None:
    wide, narrow = plot(study_tables), plot(study_tables, narrow=True)
    assert wide.to_plotly_json()["data"] == narrow.to_plotly_json()["data"]


@pytest.mark.parametrize("plot", PLOTS)
def test_no_figure_json_exceeds_300_kilobytes(plot: Any, study_tables: dict[str, Any]) -> None:
    assert len(plot(study_tables).to_json()) < 300_000


def test_passk_mean_holds_the_numbers_of_the_mean_row() -> None:
    tables = {"methods": method_rows("mean", [0.25, 0.5]) + method_rows("T1", [0.9, 1.0])}
    (line,) = _get_passk_mean_info(tables).curves
    assert line[:5] == ("base", (1, 2), (0.25, 0.5), (0.125, 0.125), (0.75, 0.75))
    assert line.notes[0] == "base, k = 1<br>25.0% [12.5%, 75.0%]<br>n = 8, 5 prompts, seeds 3"


def test_a_line_and_its_band_break_where_k_exceeds_n() -> None:
    tables = {"methods": method_rows("mean", [0.25, None, 0.5, 0.5])}
    figure = figures.plot_passk_mean(tables)
    assert list(figure.data[-1].y) == [0.25, None, 0.5, 0.5]
    assert figure.data[-1].connectgaps is False
    assert list(bands(figure)[0].x) == [1, 1, None, 4, 8, 8, 4]


def test_k_axis_has_ticks_at_powers_of_four() -> None:
    values: list[float | None] = [0.5] * 11
    axis = figures.plot_passk_mean({"methods": method_rows("mean", values)}).layout.xaxis
    assert axis.type == "log"
    assert list(axis.tickvals) == [1, 4, 16, 64, 256, 1024]


def test_passk_grid_has_a_panel_for_each_benchmark_with_three_lines(
    study_tables: dict[str, Any],
) -> None:
    info = _get_passk_grid_info(study_tables)
    assert [panel.benchmark for panel in info.panels] == ["T1", "T2", "T3", "T4", "T5", "T6"]
    assert info.labels == ("base", "GRPO", "RS-GRPO β=4")
    assert info.bands and not info.left_out
    assert len(figures.plot_passk_grid(study_tables).data) == 36


def test_passk_grid_of_many_benchmarks_keeps_to_its_budget() -> None:
    rows = [row for i in range(60) for row in method_rows(f"B{i}", [0.1, 0.2])]
    info = _get_passk_grid_info({"methods": rows})
    assert (len(info.panels), len(info.left_out), info.bands) == (50, 10, False)
    figure = figures.plot_passk_grid({"methods": rows})
    assert len(figure.data) == 50
    assert figure.data[0].error_y.array[0] == 0.65


def test_difference_is_in_points_with_a_zero_line() -> None:
    rows = [
        {**row, "baseline": "grpo", "difference": row["pass_at_k"] - 0.5}
        for row in method_rows("mean", [0.25, 0.75], "RS-GRPO β=4")
    ]
    info = _get_difference_info({"differences": rows})
    assert info.curves["base"] == ()
    (line,) = info.curves["grpo"]
    assert (line.values, line.lows, line.highs) == ((-25.0, 25.0), (12.5, 12.5), (75.0, 75.0))
    shapes = figures.plot_difference({"differences": rows}).layout.shapes
    assert [(shape.y0, shape.y1) for shape in shapes] == [(0, 0)]


def test_both_panels_of_the_difference_have_a_zero_line(study_tables: dict[str, Any]) -> None:
    shapes = figures.plot_difference(study_tables).layout.shapes
    assert [shape.yref for shape in shapes] == ["y", "y2"]


def test_tradeoff_marks_front_knee_and_dominated() -> None:
    tables = {"tradeoff": {"k": 64, "rule": "r", "knee": "GRPO", "knee_share": 0.5, "points": []}}
    for label, at_1, at_k, front in (
        ("RS-GRPO β=4", 0.25, 0.75, True),
        ("GRPO", 0.5, 0.5, True),
        ("base", 0.125, 0.25, False),
    ):
        (row,) = method_rows("mean", [at_1], label)
        point = {key: row[key] for key in ("method", "risk_beta", "label")}
        point |= {"pass_at_1": at_1, "pass_at_1_low": at_1 - 0.125, "pass_at_1_high": at_1 + 0.25}
        point |= {"pass_at_k": at_k, "pass_at_k_low": at_k - 0.125, "pass_at_k_high": at_k + 0.25}
        tables["tradeoff"]["points"].append(point | {"on_front": front})  # type: ignore[attr-defined]
    info = _get_tradeoff_info(tables)
    assert [p.label for p in info.points] == ["base", "GRPO", "RS-GRPO β=4"]
    assert [p.label for p in info.front] == ["RS-GRPO β=4", "GRPO"]
    assert info.knee == "GRPO"
    by_name = {trace.name: trace for trace in figures.plot_tradeoff(tables).data}
    assert by_name["base (dominated)"].opacity < by_name["GRPO"].opacity == 1
    assert list(by_name["Pareto front"].x) == [0.25, 0.5]
    assert (by_name["knee"].x[0], by_name["knee"].y[0]) == (0.5, 0.5)
    assert by_name["GRPO"].error_x.arrayminus[0] == 0.125
    assert by_name["GRPO"].error_y.array[0] == 0.25


def dynamics_row(label: str, seed: int, values: list[float | None]) -> dict[str, Any]:
    (row,) = method_rows("mean", [0.5], label)
    identity = {key: row[key] for key in ("method", "risk_beta", "label")}
    steps = list(range(1, len(values) + 1))
    return (
        identity
        | {"policy": "p", "seed": seed, "metric": "reward", "steps": steps}
        | {"values": values}
    )


def test_dynamics_are_the_median_and_range_over_seeds() -> None:
    runs = ([0.1, 0.2], [0.3, None], [0.4, 0.6])
    rows = [dynamics_row("GRPO", seed, list(values)) for seed, values in enumerate(runs)]
    info = _get_dynamics_info({"dynamics": rows})
    (series,) = info.main
    assert series.median.values == (0.3, pytest.approx(0.4))
    assert series.median.lows == (0.1, 0.2)
    assert series.median.highs == (0.4, 0.6)
    assert info.with_raw
    assert [trace.mode for trace in figures.plot_dynamics({"dynamics": rows}).data] == ["lines"] * 3


def test_dynamics_show_all_betas_where_they_fit(study_tables: dict[str, Any]) -> None:
    info = _get_dynamics_info(study_tables)
    assert info.metrics == tuple(METRICS)
    assert {s.median.label for s in info.main} == {"GRPO", "RS-GRPO β=4"}
    assert {s.median.label for s in info.others} == {f"RS-GRPO β={b}" for b in (0, 2, 8)}
    assert info.left_out == ()


def test_dynamics_name_the_betas_that_do_not_fit(study_tables: dict[str, Any]) -> None:
    tables = copy.deepcopy(study_tables)
    template = [row for row in tables["dynamics"] if row["risk_beta"] == 8.0]
    for beta in (16, 32):
        new = {"risk_beta": float(beta), "label": f"RS-GRPO β={beta}"}
        tables["dynamics"] += [row | new for row in template]
    info = _get_dynamics_info(tables)
    assert info.left_out == ("RS-GRPO β=32",)
    assert len(figures.plot_dynamics(tables).data) <= MAX_TRACES


def test_long_runs_are_decimated_to_500_points() -> None:
    rows = [dynamics_row("GRPO", 0, [0.5] * 10_001)]
    assert len(_get_dynamics_info({"dynamics": rows}).main[0].median.xs) <= 500


def shape_row(step: int) -> dict[str, Any]:
    histogram = {"edges": [-2.0, 0.0, 2.0], "counts_by_accuracy": [[0, 2], [1, 1], [0, 2]]}
    (row,) = method_rows("mean", [0.5], "RS-GRPO β=2")
    identity = {key: row[key] for key in ("method", "risk_beta", "label")}
    return identity | {
        "policy": "p",
        "seed": 0,
        "step": step,
        "correct": [0, 1, 2],
        "groups": [4, 2, 1],
        "standard_total": [0.0, 3.0, 1.0],
        "risk_sensitive_total": [0.0, 1.0, 0.0],
        "standard_histogram": histogram,
        "risk_histogram": histogram,
    }


def test_advantage_shares_and_weights_sum_over_steps() -> None:
    info = _get_advantage_info({"advantage_shape": [shape_row(10), shape_row(20)]})
    assert info.accuracies == (0.0, 0.5, 1.0)
    assert info.groups == (8, 4, 2)
    assert info.shares[STANDARD] == (0.0, 0.75, 0.25)
    assert info.shares[RISK_SENSITIVE] == (0.0, 1.0, 0.0)
    assert info.theory_shares == (0.0, 1.0, 0.0)
    assert info.weights[STANDARD] == (None, 1.5, None)
    assert info.histograms[STANDARD].counts == ((0, 2, 0), (4, 2, 4))


def test_the_measured_weight_lies_on_the_formula(study_tables: dict[str, Any]) -> None:
    info = _get_advantage_info(study_tables)
    inner = zip(info.accuracies[1:-1], info.weights[RISK_SENSITIVE][1:-1], strict=True)
    for p, weight in inner:
        assert weight == pytest.approx(risk_weight(p, 4.0), rel=1e-12)
    assert info.shares[RISK_SENSITIVE] == pytest.approx(info.theory_shares, rel=1e-12)


@pytest.mark.parametrize("beta", [-2.0, 0.0, 0.5, 4.0, 64.0])
@pytest.mark.parametrize("p", [0.0625, 0.5, 1.0])
def test_risk_weight_is_the_formula_of_the_paper(p: float, beta: float) -> None:
    grown = math.expm1(beta)
    expected = grown / (beta * (1 + p * grown)) if beta else 1.0
    assert risk_weight(p, beta) == pytest.approx(expected, rel=1e-12)


def test_histograms_with_different_edges_are_summed_by_the_centres_of_their_bins() -> None:
    wide = {"edges": [-4.0, 0.0, 4.0], "counts_by_accuracy": [[0, 2], [5, 1], [0, 2]]}
    rows = [shape_row(10), shape_row(20) | {"standard_histogram": wide}]
    found = _get_advantage_info({"advantage_shape": rows}).histograms[STANDARD]
    assert found.edges == (-4.0, 0.0, 4.0)
    assert found.counts == ((0, 6, 0), (4, 2, 4))


def unique_row(seed: int, found: list[int]) -> dict[str, Any]:
    (row,) = method_rows("T1", [0.5], "GRPO")
    identity = {key: row[key] for key in ("method", "risk_beta", "label", "benchmark")}
    return identity | {
        "policy": "p",
        "seed": seed,
        "n_samples": 8,
        "n_prompts": 2,
        "unique_answers": 3.0,
        "unique_solutions": 2.0,
        "unique_trees": sum(found) / 2,
        "n_solutions": 6.0,
        "n_trees": 3.0,
        "per_prompt_trees": found,
        "per_prompt_n_trees": [2, 4],
    }


def test_unique_solutions_are_averaged_over_seeds_before_their_interval() -> None:
    tables = {"unique": [unique_row(0, [1, 1]), unique_row(1, [2, 3])]}
    info = _get_unique_info(tables)
    (mean,) = info.means["GRPO"]
    half = 1.959963984540054 * math.sqrt(0.125) / math.sqrt(2)
    assert mean.value == 1.75
    assert (mean.low, mean.high) == (pytest.approx(1.75 - half), pytest.approx(1.75 + half))
    assert info.denominators == (3.0,)
    assert info.coverage[0].shares == (0.5, 0.75)


def test_without_trees_completions_are_counted_and_no_denominator_is_drawn() -> None:
    gone = {"unique_trees": None, "n_trees": None, "n_solutions": None}
    lists = {"per_prompt_trees": None, "per_prompt_n_trees": None}
    tables = {"unique": [unique_row(0, [1, 1]) | gone | lists]}
    info = _get_unique_info(tables)
    assert unique_means(tables)[0] == info.measure == "unique_solutions"
    assert info.denominators == (None,) and info.coverage == ()
    assert (info.means["GRPO"][0].value, info.means["GRPO"][0].low) == (2.0, None)
    assert len(figures.plot_unique_solutions(tables).data) == 1


def test_transitions_count_of_what_the_base_left(study_tables: dict[str, Any]) -> None:
    info = _get_transitions_info(study_tables)
    row = next(r for r in study_tables["transitions"] if r["label"] == "RS-GRPO β=4")
    change = next(c for c in info.changes["newly_solved"] if c.label == "RS-GRPO β=4")
    assert change.changed == row["unsolved_solved"]
    assert change.out_of == row["unsolved_solved"] + row["unsolved_unsolved"]
    assert change.share == pytest.approx(change.changed / change.out_of)
    assert len(info.changes["newly_lost"]) == 10


def test_a_base_without_unsolved_prompts_leaves_a_gap(study_tables: dict[str, Any]) -> None:
    row = study_tables["transitions"][0]
    nothing = {"unsolved_solved": 0, "unsolved_unsolved": 0, "newly_solved_share": None}
    nothing |= {"newly_solved_low": None, "newly_solved_high": None}
    figure = figures.plot_transitions({"transitions": [row | nothing]})
    assert list(figure.data[0].x) == [None]


def test_bandit_counts_the_seeds_that_escape() -> None:
    first = "first_pull_above_0.9"
    rows = [
        {"risk_beta": 2.0, "seed": 0, "final_reward": 0.6, first: None},
        {"risk_beta": 4.0, "seed": 1, "final_reward": 1.0, first: 60_000},
        {"risk_beta": 4.0, "seed": 0, "final_reward": 0.98, first: 50_000},
    ]
    slow, fast = _get_bandit_info({"bandit": rows}).arms
    assert (slow.escaped, fast.escaped) == (0, 2)
    assert fast.final_rewards == (0.98, 1.0)
    figure = figures.plot_bandit({"bandit": rows})
    assert list(figure.layout.xaxis.ticktext) == ["2<br>0/1", "4<br>2/2"]
    assert list(figure.data[3].y) == [None, 55_000]


def test_labels_are_shown_as_text_never_as_markup() -> None:
    hostile = '<a href="http://evil.example">x</a>'
    rows = [row | {"label": hostile, "method": "grpo"} for row in method_rows("mean", [0.5])]
    (line,) = [t for t in figures.plot_passk_mean({"methods": rows}).data if t.fill is None]
    assert line.name == '&lt;a href="http://evil.example"&gt;x&lt;/a&gt;'
    assert "<a" not in line.hovertext[0]
