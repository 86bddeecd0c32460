"""pass@k of every policy, averaged over the benchmarks: the headline figure."""

from __future__ import annotations

import math
from typing import NamedTuple

import plotly.graph_objects as go

from dashboards.panels import Curve, add_band, add_line, cells, curve, grid, k_axis, say_empty
from dashboards.tables import Tables, headline, labels, select
from dashboards.theme import MAX_TRACES, Style, styles


class _PassKMeanInfo(NamedTuple):
    curves: tuple[Curve, ...]
    styles: dict[str, Style]


def plot_passk_mean(tables: Tables, *, narrow: bool = False) -> go.Figure:
    """Draw pass@k over k, one line with its band for each policy.

    Args:
        tables: The study's tables; reads `methods` where `benchmark` is "mean".
        narrow: Whether the figure is for a page of phone width.
    """
    return _get_passk_mean_plot(_get_passk_mean_info(tables), narrow=narrow)


def share_axis(figure: go.Figure, curves: list[Curve]) -> None:
    """Put a share on the y axis of every panel: from 0 to the next full tenth, in percent."""
    highest = max(
        (y for line in curves for y in (*line.values, *line.highs) if y is not None), default=1.0
    )
    top = min(1.0, math.ceil(10 * highest + 1e-9) / 10)
    figure.update_yaxes(range=[-0.02 * top, 1.03 * top], tickformat=".0%")


def _get_passk_mean_info(tables: Tables) -> _PassKMeanInfo:
    shown = labels(tables)[: MAX_TRACES // 2]
    rows = {label: select(tables, "methods", benchmark="mean", label=label) for label in shown}
    curves = tuple(curve(label, rows[label], "pass_at_k") for label in shown if rows[label])
    return _PassKMeanInfo(curves, styles(shown, headline(tables)))


def _get_passk_mean_plot(info: _PassKMeanInfo, *, narrow: bool) -> go.Figure:
    figure = grid([], columns=1, height=380, legend=len(info.curves), narrow=narrow)
    (cell,) = cells(figure, 1)
    k_axis(figure, [int(x) for line in info.curves for x in line.xs], "k, samples drawn")
    figure.update_yaxes(title_text="pass@k")
    if not info.curves:
        say_empty(figure, "No policy has been scored yet")
        return figure
    for line in info.curves:
        add_band(figure, line, info.styles[line.label], cell)
    for line in info.curves:
        add_line(figure, line, info.styles[line.label], cell, legend=True)
    share_axis(figure, list(info.curves))
    return figure
