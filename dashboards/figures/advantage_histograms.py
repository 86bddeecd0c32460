"""Where the training signal goes: standard and risk-sensitive advantages of the same groups."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import plotly.graph_objects as go

from dashboards.panels import Cell, Number, cells, grid, percent, say_empty
from dashboards.tables import Row, Tables, headline, select
from dashboards.theme import GRPO, INK, RS_GRPO, Style

STANDARD, RISK_SENSITIVE = "standard", "risk-sensitive"
_TICKS = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


class _Histogram(NamedTuple):
    """`counts[bin][c]`: samples with that advantage in groups with c correct."""

    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]


class _AdvantageInfo(NamedTuple):
    """`shares` sum to 1 over accuracies; `weights` are sum |A| over that of an unweighted r - p."""

    label: str | None
    risk_beta: float | None
    accuracies: tuple[float, ...]
    groups: tuple[int, ...]
    histograms: dict[str, _Histogram]
    shares: dict[str, tuple[Number, ...]]
    weights: dict[str, tuple[Number, ...]]
    theory_shares: tuple[Number, ...]


def plot_advantage_histograms(tables: Tables, *, narrow: bool = False) -> go.Figure:
    """Draw both advantages by group accuracy, the share of total |A|, and w(p) over the weights.

    Args:
        tables: The study's tables; reads `advantage_shape` of the headline RS-GRPO, summed over
            its steps and seeds.
        narrow: Whether the figure is for a page of phone width.
    """
    return _get_advantage_plot(_get_advantage_info(tables), narrow=narrow)


def risk_weight(p: float, risk_beta: float) -> float:
    """Return w(p) = (e^beta - 1) / (beta (1 + p (e^beta - 1))), arXiv 2509.24261, binary rewards.

    Args:
        p: The group's accuracy in [0, 1].
        risk_beta: The risk parameter; 0 gives 1.
    """
    if risk_beta == 0:
        return 1.0
    shrink = -math.expm1(-abs(risk_beta))
    floor = p if risk_beta > 0 else 1 - p
    return shrink / (abs(risk_beta) * (1 - shrink + shrink * floor))


def _get_advantage_info(tables: Tables) -> _AdvantageInfo:
    label = headline(tables)
    rows = select(tables, "advantage_shape", label=label)
    rows = [row for row in rows if row["correct"] == rows[0]["correct"]]
    if not rows or rows[0]["risk_beta"] is None:
        return _AdvantageInfo(label, None, (), (), {}, {}, {}, ())
    correct, beta = rows[0]["correct"], rows[0]["risk_beta"]
    size = correct[-1]
    groups = _total(rows, "groups")
    spread = [g * 2 * c * (size - c) / size for c, g in zip(correct, groups, strict=True)]
    totals = {
        STANDARD: _total(rows, "standard_total"),
        RISK_SENSITIVE: _total(rows, "risk_sensitive_total"),
    }
    expected = [s * risk_weight(c / size, beta) for c, s in zip(correct, spread, strict=True)]
    return _AdvantageInfo(
        label,
        beta,
        tuple(c / size for c in correct),
        tuple(int(g) for g in groups),
        {
            STANDARD: _histogram([row["standard_histogram"] for row in rows]),
            RISK_SENSITIVE: _histogram([row["risk_histogram"] for row in rows]),
        },
        {name: _shares(total) for name, total in totals.items()},
        {name: _ratios(total, spread) for name, total in totals.items()},
        _shares(expected),
    )


def _total(rows: Sequence[Row], column: str) -> list[float]:
    return [sum(cell) for cell in zip(*(row[column] for row in rows), strict=True)]


def _histogram(histograms: Sequence[Row]) -> _Histogram:
    """Sum histograms whose edges differ: a bin's samples go to the bin that holds its centre."""
    edges = max((one["edges"] for one in histograms), key=lambda edges: edges[-1] - edges[0])
    counts = [[0] * len(histograms[0]["counts_by_accuracy"]) for _ in edges[1:]]
    for one in histograms:
        places = [_bin_of(centre, edges) for centre in _centres(one["edges"])]
        for c, row in enumerate(one["counts_by_accuracy"]):
            for place, count in zip(places, row, strict=True):
                counts[place][c] += count
    return _Histogram(tuple(edges), tuple(tuple(row) for row in counts))


def _bin_of(value: float, edges: Sequence[float]) -> int:
    return min(max(bisect_right(edges, value) - 1, 0), len(edges) - 2)


def _centres(edges: Sequence[float]) -> list[float]:
    return [(low + high) / 2 for low, high in pairwise(edges)]


def _shares(totals: Sequence[float]) -> tuple[Number, ...]:
    whole = sum(totals)
    return tuple(total / whole if whole else None for total in totals)


def _ratios(totals: Sequence[float], spread: Sequence[float]) -> tuple[Number, ...]:
    return tuple(t / s if s else None for t, s in zip(totals, spread, strict=True))


def _get_advantage_plot(info: _AdvantageInfo, *, narrow: bool) -> go.Figure:
    titles = [
        "standard advantage, samples",
        "risk-sensitive advantage, samples",
        "share of total |A|",
        "weight per sample, w(p)",
    ]
    shown = titles if info.accuracies else []
    figure = grid(shown, columns=2, height=260, legend=4, narrow=narrow)
    places = cells(figure, 4)
    figure.update_xaxes(title_text="accuracy of the group", tickformat=".0%", range=[-0.03, 1.03])
    if not info.accuracies:
        say_empty(figure, "No run has logged a histogram of advantages yet")
        return figure
    for name, cell in zip((STANDARD, RISK_SENSITIVE), places[:2], strict=True):
        _add_histogram(figure, info, name, cell)
    figure.update_layout(yaxis2_matches="y")
    _add_shares(figure, info, places[2])
    _add_weights(figure, info, places[3])
    _add_scale(figure, info, places[0])
    return figure


def _add_histogram(figure: go.Figure, info: _AdvantageInfo, name: str, cell: Cell) -> None:
    histogram = info.histograms[name]
    shown = [
        [n if n and 0 < p < 1 else None for p, n in zip(info.accuracies, row, strict=True)]
        for row in histogram.counts
    ]
    figure.add_heatmap(
        x=info.accuracies,
        y=_centres(histogram.edges),
        z=[[None if n is None else math.log10(n) for n in row] for row in shown],
        customdata=shown,
        hovertemplate="accuracy %{x:.1%}<br>advantage about %{y:.2f}<br>"
        "%{customdata} samples<extra></extra>",
        coloraxis="coloraxis",
        name=name,
        row=cell.row,
        col=cell.col,
    )
    figure.update_yaxes(title_text="advantage", row=cell.row, col=cell.col)


def _add_scale(figure: go.Figure, info: _AdvantageInfo, first: Cell) -> None:
    counts = [n for h in info.histograms.values() for row in h.counts for n in row[1:-1] if n]
    lowest = 10 ** math.floor(math.log10(min(counts, default=1)))
    largest = max([*counts, 10 * lowest])
    ticks = [tick for tick in _TICKS if lowest <= tick <= largest]
    low, high = figure.get_subplot(first.row, first.col).yaxis.domain
    figure.update_layout(
        coloraxis={
            "colorscale": "Cividis",
            "cmin": math.log10(lowest),
            "cmax": math.log10(largest),
            "colorbar": {
                "tickvals": [math.log10(tick) for tick in ticks],
                "ticktext": [f"{tick:,}" for tick in ticks],
                "y": (low + high) / 2,
                "len": high - low,
                "thickness": 10,
                "outlinewidth": 0,
            },
        }
    )


def _add_shares(figure: go.Figure, info: _AdvantageInfo, cell: Cell) -> None:
    for name, style in ((STANDARD, GRPO), (RISK_SENSITIVE, RS_GRPO)):
        notes = [
            f"{name}<br>accuracy {percent(p)}, {g} groups<br>{percent(share)} of total |A|"
            for p, g, share in zip(info.accuracies, info.groups, info.shares[name], strict=True)
        ]
        _add_series(figure, name, info.accuracies, info.shares[name], notes, style, cell)
    _add_theory(figure, info.accuracies, info.theory_shares, cell, legend=True)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", row=cell.row, col=cell.col)


def _add_weights(figure: go.Figure, info: _AdvantageInfo, cell: Cell) -> None:
    for name, style in ((STANDARD, GRPO), (RISK_SENSITIVE, RS_GRPO)):
        notes = [
            f"{name}<br>accuracy {percent(p)}, {g} groups<br>weight {w or 0:.3f}"
            for p, g, w in zip(info.accuracies, info.groups, info.weights[name], strict=True)
        ]
        _add_series(
            figure, name, info.accuracies, info.weights[name], notes, style, cell, lines=False
        )
    fine = tuple(i / 100 for i in range(2, 99))
    curve = tuple(risk_weight(p, info.risk_beta or 0.0) for p in fine)
    _add_theory(figure, fine, curve, cell, legend=False)
    figure.update_yaxes(rangemode="tozero", row=cell.row, col=cell.col)


def _add_series(
    figure: go.Figure,
    name: str,
    xs: Sequence[float],
    ys: Sequence[Number],
    notes: Sequence[str],
    style: Style,
    cell: Cell,
    *,
    lines: bool = True,
) -> None:
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines+markers" if lines else "markers",
        line={"color": style.color, "dash": style.dash, "width": 1.5},
        marker={"symbol": style.symbol, "size": 8, "color": style.color},
        hovertext=notes,
        hoverinfo="text",
        showlegend=lines,
        legendgroup=name,
        name=name,
        row=cell.row,
        col=cell.col,
    )


def _add_theory(
    figure: go.Figure, xs: Sequence[float], ys: Sequence[Number], cell: Cell, *, legend: bool
) -> None:
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines",
        line={"color": INK, "dash": "dot", "width": 1.5},
        hoverinfo="skip",
        showlegend=legend,
        legendgroup="theory",
        name="theory, w(p)",
        row=cell.row,
        col=cell.col,
    )
