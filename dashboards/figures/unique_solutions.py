"""How many different ways a policy knows, against how many there are."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from dashboards.panels import Cell, Number, cells, error_bars, grid, say_empty
from dashboards.tables import Row, Tables, headline, labels, select
from dashboards.theme import INK, MAX_TRACES, Style, plain, styles

MEASURES = {
    "unique_trees": "distinct solutions per prompt",
    "unique_solutions": "distinct correct completions per prompt",
    "unique_answers": "distinct answers per prompt",
}
_Z = 1.959963984540054


class Mean(NamedTuple):
    """A mean per prompt over seeds, with its 95% interval over prompts where it is known."""

    label: str
    benchmark: str
    value: Number
    low: Number
    high: Number
    n_prompts: int
    seeds: int


class _Coverage(NamedTuple):
    """Per prompt, ascending: the share of all its solutions that were found (mean over seeds)."""

    label: str
    shares: tuple[float, ...]


class _UniqueInfo(NamedTuple):
    measure: str
    benchmarks: tuple[str, ...]
    means: dict[str, tuple[Mean, ...]]
    denominators: tuple[Number, ...]
    coverage: tuple[_Coverage, ...]
    styles: dict[str, Style]


def plot_unique_solutions(tables: Tables, *, narrow: bool = False) -> go.Figure:
    """Draw the mean number of distinct solutions by benchmark, and the ECDF of the share found.

    Args:
        tables: The study's tables; reads `unique`. Where no denominator is known there is no ECDF.
        narrow: Whether the figure is for a page of phone width.
    """
    return _get_unique_plot(_get_unique_info(tables), narrow=narrow)


def unique_means(tables: Tables) -> tuple[str, list[Mean]]:
    """Return the measure shown and its mean for each policy and benchmark ("mean" left out).

    The interval is 1.96 standard errors over prompts of the prompt's mean over seeds.
    """
    rows = [row for row in select(tables, "unique") if row["benchmark"] != "mean"]
    known = (m for m in MEASURES if any(row.get(m) is not None for row in rows))
    measure = next(known, "unique_trees")
    names = list(dict.fromkeys(row["benchmark"] for row in rows))
    found = (
        (label, name, select({"unique": rows}, "unique", label=label, benchmark=name))
        for label in labels(tables)
        for name in names
    )
    return measure, [_mean(label, name, seeds, measure) for label, name, seeds in found if seeds]


def _get_unique_info(tables: Tables) -> _UniqueInfo:
    measure, means = unique_means(tables)
    shown = list(dict.fromkeys(mean.label for mean in means))[: MAX_TRACES // 2 - 1]
    names = tuple(dict.fromkeys(mean.benchmark for mean in means))
    first = {row["benchmark"]: row.get("n_trees") for row in select(tables, "unique")}
    known = measure == "unique_trees"
    coverage = (_Coverage(label, _shares_found(tables, label)) for label in shown)
    return _UniqueInfo(
        measure,
        names,
        {label: tuple(mean for mean in means if mean.label == label) for label in shown},
        tuple(first[name] if known else None for name in names),
        tuple(one for one in coverage if known and one.shares),
        styles(labels(tables), headline(tables)),
    )


def _mean(label: str, benchmark: str, seeds: Sequence[Row], measure: str) -> Mean:
    values = [row[measure] for row in seeds if row.get(measure) is not None]
    value = statistics.fmean(values) if values else None
    per_prompt = _over_seeds(seeds, "per_prompt_trees") if measure == "unique_trees" else ()
    half = None
    if value is not None and len(per_prompt) > 1:
        half = _Z * statistics.stdev(per_prompt) / len(per_prompt) ** 0.5
    low = None if value is None or half is None else max(value - half, 0.0)
    high = None if value is None or half is None else value + half
    return Mean(label, benchmark, value, low, high, seeds[0]["n_prompts"], len(seeds))


def _over_seeds(seeds: Sequence[Row], column: str) -> tuple[float, ...]:
    lists = [row.get(column) or [] for row in seeds]
    if len({len(one) for one in lists}) != 1 or any(v is None for one in lists for v in one):
        return ()
    return tuple(statistics.fmean(prompt) for prompt in zip(*lists, strict=True))


def _shares_found(tables: Tables, label: str) -> tuple[float, ...]:
    rows = [row for row in select(tables, "unique", label=label) if row["benchmark"] != "mean"]
    shares: list[float] = []
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        seeds = [row for row in rows if row["benchmark"] == name]
        found, all_there = (
            _over_seeds(seeds, column) for column in ("per_prompt_trees", "per_prompt_n_trees")
        )
        shares += [f / n for f, n in zip(found, all_there, strict=False) if n]
    return tuple(sorted(shares))


def _get_unique_plot(info: _UniqueInfo, *, narrow: bool) -> go.Figure:
    titles = [MEASURES[info.measure]]
    if info.coverage:
        titles.append("share of solutions found (ECDF)")
    legend = len(info.means) + 1
    figure = grid(titles, columns=2, height=320, legend=legend, narrow=narrow)
    places = cells(figure, len(titles))
    if not info.means:
        say_empty(figure, "No distinct solutions have been counted yet")
        return figure
    _add_denominators(figure, info, places[0])
    for rank, (label, means) in enumerate(info.means.items()):
        offset = 0.7 * (rank + 0.5) / len(info.means) - 0.35
        _add_means(figure, info, means, offset, info.styles[label], places[0])
    for one in info.coverage:
        _add_ecdf(figure, one, info.styles[one.label], places[1])
    return figure


def _add_denominators(figure: go.Figure, info: _UniqueInfo, cell: Cell) -> None:
    axis = {"row": cell.row, "col": cell.col}
    positions = list(range(len(info.benchmarks)))
    figure.update_xaxes(
        tickvals=positions,
        ticktext=[plain(name) for name in info.benchmarks],
        range=[-0.6, len(positions) - 0.4],
        showgrid=False,
        **axis,
    )
    figure.update_yaxes(rangemode="tozero", **axis)
    if any(n is not None for n in info.denominators):
        xs = [x for i in positions for x in (i - 0.42, i + 0.42, None)]
        ys = [y for n in info.denominators for y in (n, n, None)]
        figure.add_scatter(
            x=xs, y=ys, mode="lines", line={"color": INK, "width": 2}, name="all there are", **axis
        )


def _add_means(
    figure: go.Figure,
    info: _UniqueInfo,
    means: Sequence[Mean],
    offset: float,
    style: Style,
    cell: Cell,
) -> None:
    values, lows, highs = ([getattr(m, part) for m in means] for part in ("value", "low", "high"))
    figure.add_scatter(
        x=[info.benchmarks.index(mean.benchmark) + offset for mean in means],
        y=values,
        mode="markers",
        marker={"symbol": style.symbol, "size": 8, "color": style.color},
        error_y=error_bars(values, lows, highs, style.color),
        cliponaxis=False,
        hovertext=[mean_note(mean) for mean in means],
        hoverinfo="text",
        legendgroup=means[0].label,
        name=plain(means[0].label),
        row=cell.row,
        col=cell.col,
    )


def mean_note(mean: Mean) -> str:
    """Return what hovering over a mean shows."""
    shown = ["–" if v is None else f"{v:.2f}" for v in (mean.value, mean.low, mean.high)]
    return (
        f"{plain(mean.label)}, {plain(mean.benchmark)}<br>{shown[0]} [{shown[1]}, {shown[2]}]<br>"
        f"{mean.n_prompts} prompts, {mean.seeds} seeds"
    )


def _add_ecdf(figure: go.Figure, coverage: _Coverage, style: Style, cell: Cell) -> None:
    shares = sorted(set(coverage.shares))
    count = len(coverage.shares)
    at_most = [sum(s <= x for s in coverage.shares) / count for x in shares]
    axis = {"row": cell.row, "col": cell.col}
    figure.add_scatter(
        x=[0.0, *shares, 1.0],
        y=[0.0, *at_most, 1.0],
        mode="lines",
        line={"color": style.color, "dash": style.dash, "width": 1.8, "shape": "hv"},
        hovertemplate="found at most %{x:.0%} on %{y:.0%} of prompts<extra></extra>",
        showlegend=False,
        legendgroup=coverage.label,
        name=plain(coverage.label),
        **axis,
    )
    figure.update_xaxes(
        title_text="share of solutions found", tickformat=".0%", range=[-0.02, 1.02], **axis
    )
    figure.update_yaxes(title_text="prompts at or below", tickformat=".0%", range=[0, 1.02], **axis)
