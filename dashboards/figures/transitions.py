"""What training won and lost: prompts newly solved and newly lost against the base policy."""

from __future__ import annotations

from typing import NamedTuple

import plotly.graph_objects as go

from dashboards.panels import Cell, cells, error_bars, grid, percent, say_empty
from dashboards.tables import Row, Tables, headline, labels, ordered, select
from dashboards.theme import MAX_TRACES, Style, plain, styles

PANELS = {
    "newly_solved": "base-unsolved, now solved",
    "newly_lost": "base-solved, now lost",
}


class _Change(NamedTuple):
    """One policy's share; `changed` of `out_of` prompts. None where there were none to change."""

    label: str
    seed: int
    share: float | None
    low: float | None
    high: float | None
    changed: int
    out_of: int


class _TransitionsInfo(NamedTuple):
    labels: tuple[str, ...]
    changes: dict[str, tuple[_Change, ...]]
    styles: dict[str, Style]


def plot_transitions(tables: Tables, *, narrow: bool = False) -> go.Figure:
    """Draw the share of prompts newly solved and newly lost, a dot for each seed.

    Args:
        tables: The study's tables; reads `transitions` where `benchmark` is "all".
        narrow: Whether the figure is for a page of phone width.
    """
    return _get_transitions_plot(_get_transitions_info(tables), narrow=narrow)


def _get_transitions_info(tables: Tables) -> _TransitionsInfo:
    rows = [
        row for row in select(tables, "transitions", benchmark="all") if row["method"] != "base"
    ]
    shown = ordered(rows)[: MAX_TRACES // 2]
    rows = sorted(rows, key=lambda row: row["seed"])
    changes = {
        name: tuple(_change(row, name) for label in shown for row in rows if row["label"] == label)
        for name in PANELS
    }
    return _TransitionsInfo(tuple(shown), changes, styles(labels(tables), headline(tables)))


def _change(row: Row, name: str) -> _Change:
    pair = ("unsolved_solved", "unsolved_unsolved")
    if name == "newly_lost":
        pair = ("solved_unsolved", "solved_solved")
    shares = (row[f"{name}_share"], row[f"{name}_low"], row[f"{name}_high"])
    return _Change(row["label"], row["seed"], *shares, row[pair[0]], sum(row[p] for p in pair))


def _get_transitions_plot(info: _TransitionsInfo, *, narrow: bool) -> go.Figure:
    height = 90 + 42 * max(len(info.labels), 3)
    figure = grid([*PANELS.values()], columns=2, height=height, legend=0, narrow=narrow)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero", zeroline=False)
    if not info.labels:
        say_empty(figure, "No trained policy has been compared with its base yet")
        return figure
    figure.update_yaxes(
        tickvals=list(range(len(info.labels))),
        ticktext=[plain(label) for label in info.labels],
        range=[len(info.labels) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    if not narrow:
        figure.update_yaxes(showticklabels=False, ticks="", col=2)
    for cell, (name, changes) in zip(cells(figure, 2), info.changes.items(), strict=True):
        figure.update_xaxes(title_text=_axis_title(name), row=cell.row, col=cell.col)
        for rank, label in enumerate(info.labels):
            own = [change for change in changes if change.label == label]
            _add_changes(figure, own, rank, info.styles[label], cell)
    return figure


def _axis_title(name: str) -> str:
    return f"share of base-{'unsolved' if name == 'newly_solved' else 'solved'} prompts"


def _add_changes(
    figure: go.Figure, changes: list[_Change], rank: int, style: Style, cell: Cell
) -> None:
    shares = [change.share for change in changes]
    bars = error_bars(
        shares, [change.low for change in changes], [change.high for change in changes], style.color
    )
    count = len(changes)
    figure.add_scatter(
        x=shares,
        y=[rank + 0.5 * (i + 0.5) / count - 0.25 for i in range(count)],
        mode="markers",
        marker={"symbol": style.symbol, "size": 9, "color": style.color},
        error_x=bars,
        cliponaxis=False,
        hovertext=[_note(change) for change in changes],
        hoverinfo="text",
        showlegend=False,
        name=plain(changes[0].label),
        row=cell.row,
        col=cell.col,
    )


def _note(change: _Change) -> str:
    interval = f"[{percent(change.low)}, {percent(change.high)}]"
    return (
        f"{plain(change.label)}, seed {change.seed}<br>{percent(change.share)} {interval}<br>"
        f"{change.changed} of {change.out_of} prompts"
    )
