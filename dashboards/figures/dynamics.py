"""Training as it went: reward, entropy, groups without signal, gradient norm, size of A."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from dashboards.panels import Cell, Curve, Number, add_band, cells, grid, say_empty
from dashboards.tables import Row, Tables, headline, labels, main_labels, select
from dashboards.theme import MAX_TRACES, Style, fade, plain, styles

METRICS = {
    "reward": "mean reward",
    "entropy": "policy entropy (nats)",
    "frac_all_fail": "share of all-fail groups",
    "frac_all_pass": "share of all-pass groups",
    "grad_norm": "gradient norm",
    "mean_abs_advantage": "mean |A|",
}
MAX_POINTS = 500


class _Series(NamedTuple):
    metric: str
    median: Curve
    raw: tuple[tuple[tuple[float, ...], tuple[Number, ...]], ...]


class _DynamicsInfo(NamedTuple):
    metrics: tuple[str, ...]
    main: tuple[_Series, ...]
    others: tuple[_Series, ...]
    left_out: tuple[str, ...]
    with_raw: bool
    styles: dict[str, Style]


def plot_dynamics(tables: Tables, *, narrow: bool = False) -> go.Figure:
    """Draw each metric over steps: the median over seeds, and the band from lowest to highest.

    GRPO and the headline RS-GRPO have band and faint raw lines; other betas are lines alone, as
    many as fit into 50 traces.

    Args:
        tables: The study's tables; reads `dynamics`.
        narrow: Whether the figure is for a page of phone width.
    """
    return _get_dynamics_plot(_get_dynamics_info(tables), narrow=narrow)


def _get_dynamics_info(tables: Tables) -> _DynamicsInfo:
    metrics = tuple(m for m in METRICS if select(tables, "dynamics", metric=m))
    known = {row["label"] for row in select(tables, "dynamics")}
    main = [label for label in main_labels(tables) if label in known]
    rest = [label for label in labels(tables) if label in known and label not in main]
    room = MAX_TRACES - 2 * len(metrics) * len(main)
    fitting = room // max(len(metrics), 1)
    drawn = _series(tables, main, metrics)
    others = _series(tables, rest[:fitting], metrics)
    raw_fits = len(others) + len(drawn) <= room
    return _DynamicsInfo(
        metrics,
        drawn,
        others,
        tuple(rest[fitting:]),
        raw_fits and any(len(series.raw) > 2 for series in drawn),
        styles(labels(tables), headline(tables)),
    )


def _series(tables: Tables, shown: Sequence[str], metrics: Sequence[str]) -> tuple[_Series, ...]:
    found = (
        (metric, label, select(tables, "dynamics", metric=metric, label=label))
        for metric in metrics
        for label in shown
    )
    return tuple(_one_series(metric, label, rows) for metric, label, rows in found if rows)


def _one_series(metric: str, label: str, rows: Sequence[Row]) -> _Series:
    at_step: dict[float, list[float]] = {}
    for row in rows:
        for step, value in zip(row["steps"], row["values"], strict=True):
            at_step.setdefault(step, []).extend([] if value is None else [value])
    steps = _decimate(sorted(at_step))
    middle = tuple(statistics.median(at_step[s]) if at_step[s] else None for s in steps)
    notes = tuple(
        f"{plain(label)}, step {s:g}<br>{m:.4g}, {len(at_step[s])} seeds" if m is not None else ""
        for s, m in zip(steps, middle, strict=True)
    )
    lows = tuple(min(at_step[s], default=None) for s in steps)
    highs = tuple(max(at_step[s], default=None) for s in steps)
    raw = tuple(
        (_decimate(row["steps"]), _decimate(row["values"]))
        for row in sorted(rows, key=lambda row: row["seed"])
    )
    return _Series(metric, Curve(label, steps, middle, lows, highs, notes), raw)


def _decimate(values: Sequence[Any]) -> tuple[Any, ...]:
    stride = -(-len(values) // MAX_POINTS) or 1
    return tuple(values[::stride])


def _get_dynamics_plot(info: _DynamicsInfo, *, narrow: bool) -> go.Figure:
    names = {series.median.label for series in (*info.main, *info.others)}
    titles = [METRICS[metric] for metric in info.metrics]
    figure = grid(titles, columns=3, height=210, legend=len(names), narrow=narrow)
    figure.update_xaxes(title_text="step")
    if not info.metrics:
        say_empty(figure, "No training run has logged a step yet")
        return figure
    place = dict(zip(info.metrics, cells(figure, len(info.metrics)), strict=True))
    for series in info.main:
        style = info.styles[series.median.label]
        add_band(figure, series.median, style, place[series.metric], edge=0.6)
        if info.with_raw:
            _add_raw(figure, series, style, place[series.metric])
    for series in (*info.others, *info.main):
        label = series.median.label
        cell = place[series.metric]
        rank = [*info.styles].index(label)
        legend = rank if label in names else None
        _add_median(figure, series.median, info.styles[label], cell, legend)
        names.discard(label)
    return figure


def _add_raw(figure: go.Figure, series: _Series, style: Style, cell: Cell) -> None:
    xs = [x for steps, _ in series.raw for x in (*steps, None)]
    ys = [y for _, values in series.raw for y in (*values, None)]
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines",
        line={"width": 0.7, "color": fade(style.color, 0.5)},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=series.median.label,
        name=plain(series.median.label),
        row=cell.row,
        col=cell.col,
    )


def _add_median(
    figure: go.Figure, line: Curve, style: Style, cell: Cell, legend: int | None
) -> None:
    figure.add_scatter(
        x=line.xs,
        y=line.values,
        mode="lines",
        line={"color": style.color, "dash": style.dash, "width": 1.8},
        hovertext=line.notes,
        hoverinfo="text",
        showlegend=legend is not None,
        legendrank=legend,
        legendgroup=line.label,
        name=plain(line.label),
        row=cell.row,
        col=cell.col,
    )
