"""What the figures share: a grid of panels, curves with bands, axes in powers of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.tables import Row
from dashboards.theme import GRID, INK, Style, fade, plain, template

Number = float | None
_GAP, _ROW_GAP = 44, 84
_LEGEND_ROW = 24


class Curve(NamedTuple):
    """One policy's line in one panel; None is a gap. `notes` are what hovering shows."""

    label: str
    xs: tuple[float, ...]
    values: tuple[Number, ...]
    lows: tuple[Number, ...]
    highs: tuple[Number, ...]
    notes: tuple[str, ...]


class Cell(NamedTuple):
    """A panel's place in the grid, counted from 1."""

    row: int
    col: int


def grid(
    titles: Sequence[str], *, columns: int, height: int, legend: int, narrow: bool
) -> go.Figure:
    """Return a figure with one empty panel for each title, row by row.

    Args:
        titles: Panel titles; an empty sequence gives one empty panel.
        columns: Panels in a row on a wide page; a narrow page has one.
        height: Height of a panel in pixels.
        legend: Number of legend entries, for which room is left on top.
        narrow: Whether the figure is for a page of phone width.
    """
    titles = [*titles] or [""]
    cols = 1 if narrow else min(columns, len(titles))
    rows = math.ceil(len(titles) / cols)
    top = 30 + _LEGEND_ROW * math.ceil(legend / (1.25 if narrow else 7))
    plot = rows * height + (rows - 1) * _ROW_GAP
    figure = make_subplots(
        rows=rows,
        cols=cols,
        subplot_titles=[plain(title) for title in titles],
        horizontal_spacing=0.07 if cols == 3 else 0.11,
        vertical_spacing=_ROW_GAP / plot if rows > 1 else 0.0,
    )
    figure.update_layout(
        template=template(),
        height=plot + top + _GAP,
        margin={"l": 52, "r": 40 if not narrow else 12, "t": top, "b": _GAP},
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        meta={"columns": cols},
    )
    figure.update_annotations(font={"size": 13 if narrow else 14})
    return figure


def cells(figure: go.Figure, count: int) -> list[Cell]:
    """Return the places of the first `count` panels of a figure made by `grid`."""
    columns = figure.layout.meta["columns"]
    return [Cell(1 + i // columns, 1 + i % columns) for i in range(count)]


def curve(label: str, rows: Sequence[Row], value: str, scale: float = 1.0) -> Curve:
    """Return the curve over k of rows that hold `k`, `value`, `low`, `high` and their n."""
    rows = sorted(rows, key=lambda row: row["k"])
    column = {
        name: tuple(None if row[name] is None else row[name] * scale for row in rows)
        for name in (value, "low", "high")
    }
    return Curve(
        label,
        tuple(row["k"] for row in rows),
        column[value],
        column["low"],
        column["high"],
        tuple(_note(row, value) for row in rows),
    )


def add_band(figure: go.Figure, line: Curve, style: Style, cell: Cell, edge: float = 0.0) -> None:
    """Draw the interval of a curve as a band, broken where the interval is unknown."""
    xs: list[Number] = []
    ys: list[Number] = []
    for run in _runs(line):
        low = [(x, y) for x, y, _ in run]
        high = [(x, y) for x, _, y in reversed(run)]
        outline: list[tuple[Number, Number]] = [*low, *high, (None, None)]
        xs += [x for x, _ in outline]
        ys += [y for _, y in outline]
    if xs:
        figure.add_scatter(
            x=xs[:-1],
            y=ys[:-1],
            mode="lines",
            fill="toself",
            fillcolor=fade(style.color, 0.16),
            line={"width": edge, "color": fade(style.color, 0.5)},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=line.label,
            name=plain(line.label),
            row=cell.row,
            col=cell.col,
        )


def add_line(
    figure: go.Figure, line: Curve, style: Style, cell: Cell, *, legend: bool, bars: bool = False
) -> None:
    """Draw a curve with its markers, and with error bars instead of a band where `bars`."""
    figure.add_scatter(
        x=line.xs,
        y=line.values,
        mode="lines+markers",
        line={"color": style.color, "dash": style.dash, "width": 2},
        marker={"symbol": style.symbol, "size": 7, "color": style.color},
        error_y=error_bars(line.values, line.lows, line.highs, style.color) if bars else None,
        hovertext=line.notes,
        hoverinfo="text",
        connectgaps=False,
        showlegend=legend,
        legendgroup=line.label,
        name=plain(line.label),
        row=cell.row,
        col=cell.col,
    )


def error_bars(
    values: Sequence[Number], lows: Sequence[Number], highs: Sequence[Number], color: str
) -> dict[str, object]:
    """Return Plotly error bars from each low to each high; none where a number is unknown."""
    up = [_minus(high, value) for value, high in zip(values, highs, strict=True)]
    down = [_minus(value, low) for value, low in zip(values, lows, strict=True)]
    return {"array": up, "arrayminus": down, "color": color, "thickness": 1.2, "width": 3}


def k_axis(figure: go.Figure, ks: Sequence[int], title: str = "k") -> None:
    """Put k of every panel on a log2 axis with a tick at every fourth power."""
    top = max(ks, default=256)
    ticks = [4**i for i in range(16) if 4**i <= top]
    figure.update_xaxes(
        type="log",
        range=[math.log10(min(ks, default=1)) - 0.06, math.log10(max(top, 2)) + 0.06],
        tickvals=ticks,
        ticktext=[str(tick) for tick in ticks],
        title_text=title,
    )


def zero_line(figure: go.Figure) -> None:
    """Draw the line of no difference across every panel."""
    figure.add_hline(y=0, line={"color": INK, "width": 1.2}, layer="below")


def say_empty(figure: go.Figure, sentence: str) -> None:
    """Write across a figure without data why it is empty."""
    figure.update_xaxes(range=[0, 1], showticklabels=False, type="linear")
    figure.update_yaxes(range=[0, 1], showticklabels=False, gridcolor=GRID)
    figure.add_annotation(
        text=plain(sentence), x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False
    )


def percent(value: Number, digits: int = 1) -> str:
    """Return a share as a percentage, or a dash where it is unknown."""
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def span(values: Sequence[float | int | None]) -> str:
    """Return one number, or the range from smallest to largest, or "unknown"."""
    known = sorted({value for value in values if value is not None})
    if not known:
        return "unknown"
    return f"{known[0]:g}" if len(known) == 1 else f"{known[0]:g} to {known[-1]:g}"


def _note(row: Row, value: str) -> str:
    low, high = percent(row["low"]), percent(row["high"])
    seeds = ", ".join(str(seed) for seed in row.get("seeds") or [])
    return (
        f"{plain(row['label'])}, k = {row['k']}<br>{percent(row[value])} [{low}, {high}]<br>"
        f"n = {row['n_samples']}, {row['n_prompts']} prompts, seeds {seeds or '–'}"
    )


def _runs(line: Curve) -> list[list[tuple[float, float, float]]]:
    runs: list[list[tuple[float, float, float]]] = [[]]
    for x, value, low, high in zip(line.xs, line.values, line.lows, line.highs, strict=True):
        if value is None or low is None or high is None:
            runs.append([])
        else:
            runs[-1].append((x, low, high))
    return [run for run in runs if run]


def _minus(left: Number, right: Number) -> float:
    return 0.0 if left is None or right is None else max(left - right, 0.0)
