"""One figure per file: `_get_x_info(tables)` reads, `plot_x(tables)` draws.

Every `plot_x` takes the tables of a study and `narrow`, true for a page of phone width; the data
are the same in both, only the layout differs. An empty table gives an empty figure with axes.
"""

from __future__ import annotations

from dashboards.figures.advantage_histograms import plot_advantage_histograms
from dashboards.figures.bandit import plot_bandit
from dashboards.figures.difference import plot_difference
from dashboards.figures.dynamics import plot_dynamics
from dashboards.figures.passk_grid import plot_passk_grid
from dashboards.figures.passk_mean import plot_passk_mean
from dashboards.figures.tradeoff import plot_tradeoff
from dashboards.figures.transitions import plot_transitions
from dashboards.figures.unique_solutions import plot_unique_solutions

__all__ = [
    "plot_advantage_histograms",
    "plot_bandit",
    "plot_difference",
    "plot_dynamics",
    "plot_passk_grid",
    "plot_passk_mean",
    "plot_tradeoff",
    "plot_transitions",
    "plot_unique_solutions",
]
