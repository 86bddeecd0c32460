"""pass@k by benchmark: small multiples of base, GRPO and the headline RS-GRPO."""

from __future__ import annotations

from typing import NamedTuple

import plotly.graph_objects as go

from dashboards.figures.passk_mean import share_axis
from dashboards.panels import Curve, add_band, add_line, cells, curve, grid, k_axis, say_empty
from dashboards.tables import Tables, benchmarks, headline, main_labels, select
from dashboards.theme import MAX_TRACES, Style, styles


class _Panel(NamedTuple):
    benchmark: str
    curves: tuple[Curve, ...]


class _PassKGridInfo(NamedTuple):
    panels: tuple[_Panel, ...]
    left_out: tuple[str, ...]
    bands: bool
    labels: tuple[str, ...]
    styles: dict[str, Style]


def plot_passk_grid(tables: Tables, *, narrow: bool = False) -> go.Figure:
    """Draw pass@k over k, a panel for each benchmark, three panels in a row.

    Bands become error bars, then panels beyond the budget are left to the table, where a figure
    would have more than 50 traces.

    Args:
        tables: The study's tables; reads `methods`.
        narrow: Whether the figure is for a page of phone width.
    """
    return _get_passk_grid_plot(_get_passk_grid_info(tables), narrow=narrow)


def _get_passk_grid_info(tables: Tables) -> _PassKGridInfo:
    shown, names = main_labels(tables), benchmarks(tables)
    room = MAX_TRACES // max(len(shown), 1)
    panels = []
    for name in names[:room]:
        rows = {label: select(tables, "methods", benchmark=name, label=label) for label in shown}
        lines = tuple(curve(label, rows[label], "pass_at_k") for label in shown if rows[label])
        panels.append(_Panel(name, lines))
    return _PassKGridInfo(
        tuple(panels),
        tuple(names[room:]),
        2 * len(panels) * len(shown) <= MAX_TRACES,
        tuple(shown),
        styles(shown, headline(tables)),
    )


def _get_passk_grid_plot(info: _PassKGridInfo, *, narrow: bool) -> go.Figure:
    titles = [panel.benchmark for panel in info.panels]
    figure = grid(titles, columns=3, height=220, legend=len(info.labels), narrow=narrow)
    lines = [line for panel in info.panels for line in panel.curves]
    k_axis(figure, [int(x) for line in lines for x in line.xs])
    if not lines:
        say_empty(figure, "No benchmark has been scored yet")
        return figure
    share_axis(figure, lines)
    figure.update_yaxes(title_text="pass@k", col=1)
    unnamed = set(info.labels)
    for cell, panel in zip(cells(figure, len(info.panels)), info.panels, strict=True):
        for line in panel.curves:
            style = info.styles[line.label]
            if info.bands:
                add_band(figure, line, style, cell)
            fresh = line.label in unnamed
            add_line(figure, line, style, cell, legend=fresh, bars=not info.bands)
            unnamed.discard(line.label)
    return figure
