"""What more coverage costs: pass@1 against pass@k, a point for each policy."""

from __future__ import annotations

from typing import NamedTuple

import plotly.graph_objects as go

from dashboards.panels import cells, error_bars, grid, percent, say_empty
from dashboards.tables import Row, Tables, headline, ordered
from dashboards.theme import INK, MAX_TRACES, Style, plain, styles

FADED = 0.6


class _Point(NamedTuple):
    label: str
    pass_at_1: float
    pass_at_1_low: float | None
    pass_at_1_high: float | None
    pass_at_k: float
    pass_at_k_low: float | None
    pass_at_k_high: float | None
    on_front: bool
    note: str


class _TradeoffInfo(NamedTuple):
    k: int | None
    points: tuple[_Point, ...]
    knee: str | None
    styles: dict[str, Style]

    @property
    def front(self) -> tuple[_Point, ...]:
        """The points that no other dominates, by ascending pass@1."""
        return tuple(sorted((p for p in self.points if p.on_front), key=lambda p: p.pass_at_1))


def plot_tradeoff(tables: Tables, *, narrow: bool = False) -> go.Figure:
    """Draw pass@k over pass@1 with error bars both ways, the Pareto front and its knee.

    Args:
        tables: The study's tables; reads `tradeoff`.
        narrow: Whether the figure is for a page of phone width.
    """
    return _get_tradeoff_plot(_get_tradeoff_info(tables), narrow=narrow)


def _get_tradeoff_info(tables: Tables) -> _TradeoffInfo:
    table = tables.get("tradeoff") or {}
    rows = [
        row
        for row in table.get("points") or []
        if row["pass_at_1"] is not None and row["pass_at_k"] is not None
    ]
    by_label = {row["label"]: row for row in rows}
    shown = ordered(rows)[: MAX_TRACES - 2]
    points = tuple(_point(by_label[label], table.get("k")) for label in shown)
    return _TradeoffInfo(table.get("k"), points, table.get("knee"), styles(shown, headline(tables)))


def _point(row: Row, k: int | None) -> _Point:
    low, high = percent(row["pass_at_k_low"]), percent(row["pass_at_k_high"])
    low1, high1 = percent(row["pass_at_1_low"]), percent(row["pass_at_1_high"])
    note = (
        f"{plain(row['label'])}<br>pass@1 {percent(row['pass_at_1'])} [{low1}, {high1}]<br>"
        f"pass@{k} {percent(row['pass_at_k'])} [{low}, {high}]"
    )
    numbers = {name: row[name] for name in _Point._fields[:-1]}
    return _Point(**numbers, note=note)


def _get_tradeoff_plot(info: _TradeoffInfo, *, narrow: bool) -> go.Figure:
    figure = grid([], columns=1, height=400, legend=len(info.points) + 2, narrow=narrow)
    cells(figure, 1)
    figure.update_xaxes(title_text="pass@1", tickformat=".0%")
    figure.update_yaxes(title_text=f"pass@{info.k or 'k'}", tickformat=".0%")
    if not info.points:
        say_empty(figure, "No policy has been scored yet")
        return figure
    for point in info.points:
        _add_point(figure, point, info.styles[point.label])
    _add_front(figure, info.front)
    _add_knee(figure, [point for point in info.points if point.label == info.knee])
    return figure


def _add_front(figure: go.Figure, front: tuple[_Point, ...]) -> None:
    figure.add_scatter(
        x=[point.pass_at_1 for point in front],
        y=[point.pass_at_k for point in front],
        mode="lines",
        line={"color": INK, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        name="Pareto front",
    )


def _add_point(figure: go.Figure, point: _Point, style: Style) -> None:
    x, y = [point.pass_at_1], [point.pass_at_k]
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        opacity=1.0 if point.on_front else FADED,
        marker={"symbol": style.symbol, "size": 12, "color": style.color},
        error_x=error_bars(x, [point.pass_at_1_low], [point.pass_at_1_high], style.color),
        error_y=error_bars(y, [point.pass_at_k_low], [point.pass_at_k_high], style.color),
        hovertext=[point.note],
        hoverinfo="text",
        name=plain(point.label if point.on_front else f"{point.label} (dominated)"),
    )


def _add_knee(figure: go.Figure, knee: list[_Point]) -> None:
    if knee:
        figure.add_scatter(
            x=[knee[0].pass_at_1],
            y=[knee[0].pass_at_k],
            mode="markers",
            marker={"symbol": "circle-open", "size": 24, "color": INK, "line": {"width": 2}},
            hoverinfo="skip",
            name="knee",
        )
