"""The honest answer to "is it better?": paired differences of pass@k to GRPO and to base."""

from __future__ import annotations

from typing import NamedTuple

import plotly.graph_objects as go

from dashboards.panels import (
    Curve,
    add_band,
    add_line,
    cells,
    curve,
    grid,
    k_axis,
    say_empty,
    zero_line,
)
from dashboards.tables import Tables, headline, labels, ordered, select
from dashboards.theme import MAX_TRACES, Style, styles

BASELINES = {"base": "minus base", "grpo": "minus GRPO"}


class _DifferenceInfo(NamedTuple):
    curves: dict[str, tuple[Curve, ...]]
    styles: dict[str, Style]


def plot_difference(tables: Tables, *, narrow: bool = False) -> go.Figure:
    """Draw pass@k minus a baseline's, in percentage points over k, a panel for each baseline.

    Args:
        tables: The study's tables; reads `differences` where `benchmark` is "mean".
        narrow: Whether the figure is for a page of phone width.
    """
    return _get_difference_plot(_get_difference_info(tables), narrow=narrow)


def _get_difference_info(tables: Tables) -> _DifferenceInfo:
    room = MAX_TRACES // (2 * len(BASELINES))
    curves = {}
    for baseline in BASELINES:
        rows = select(tables, "differences", benchmark="mean", baseline=baseline)
        by_label = {label: [r for r in rows if r["label"] == label] for label in ordered(rows)}
        curves[baseline] = tuple(
            curve(label, found, "difference", 100.0) for label, found in by_label.items()
        )[:room]
    return _DifferenceInfo(curves, styles(labels(tables), headline(tables)))


def _get_difference_plot(info: _DifferenceInfo, *, narrow: bool) -> go.Figure:
    lines = [line for curves in info.curves.values() for line in curves]
    names = {line.label for line in lines}
    titles = list(BASELINES.values())
    figure = grid(titles, columns=2, height=320, legend=len(names), narrow=narrow)
    k_axis(figure, [int(x) for line in lines for x in line.xs], "k, samples drawn")
    figure.update_yaxes(title_text="percentage points of pass@k", col=1)
    if not lines:
        say_empty(figure, "No two policies have been compared yet")
        return figure
    figure.update_yaxes(tickformat="+d")
    figure.update_layout(yaxis2_matches="y")
    for cell, curves in zip(cells(figure, 2), info.curves.values(), strict=True):
        for line in curves:
            add_band(figure, line, info.styles[line.label], cell)
            fresh = line.label in names
            add_line(figure, line, info.styles[line.label], cell, legend=fresh)
            names.discard(line.label)
    zero_line(figure)
    return figure
