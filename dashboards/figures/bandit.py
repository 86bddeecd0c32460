"""The paper's first sanity check: which betas leave the local optimum of a 100-armed bandit."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import plotly.graph_objects as go

from dashboards.panels import Cell, cells, grid, say_empty
from dashboards.tables import Row, Tables, select
from dashboards.theme import INK, RS_GRPO, fade

ESCAPED = 0.9


class _Arm(NamedTuple):
    """All seeds of one beta, by seed; `first_pulls` is None where 0.9 was never passed."""

    risk_beta: float
    seeds: tuple[int, ...]
    final_rewards: tuple[float, ...]
    first_pulls: tuple[float | None, ...]

    @property
    def escaped(self) -> int:
        """How many seeds passed 0.9."""
        return sum(pull is not None for pull in self.first_pulls)


class _BanditInfo(NamedTuple):
    arms: tuple[_Arm, ...]


def plot_bandit(tables: Tables, *, narrow: bool = False) -> go.Figure:
    """Draw the final reward and the first pull above 0.9, a dot for each seed, by beta.

    Args:
        tables: Holds `bandit`, rows {risk_beta, seed, final_reward, first_pull_above_0.9}.
        narrow: Whether the figure is for a page of phone width.
    """
    return _get_bandit_plot(_get_bandit_info(tables), narrow=narrow)


def _get_bandit_info(tables: Tables) -> _BanditInfo:
    rows = select(tables, "bandit")
    betas = sorted({row["risk_beta"] for row in rows})
    return _BanditInfo(tuple(_arm(beta, rows) for beta in betas))


def _arm(beta: float, rows: list[Row]) -> _Arm:
    own = sorted((r for r in rows if r["risk_beta"] == beta), key=lambda row: row["seed"])
    return _Arm(
        beta,
        tuple(row["seed"] for row in own),
        tuple(row["final_reward"] for row in own),
        tuple(row["first_pull_above_0.9"] for row in own),
    )


def _get_bandit_plot(info: _BanditInfo, *, narrow: bool) -> go.Figure:
    titles = ["final reward", "first pull above 0.9"]
    figure = grid(titles, columns=2, height=300, legend=2, narrow=narrow)
    figure.update_xaxes(title_text="risk β")
    if not info.arms:
        say_empty(figure, "No bandit has been run yet")
        return figure
    figure.update_xaxes(
        tickvals=list(range(len(info.arms))),
        ticktext=[f"{arm.risk_beta:g}<br>{arm.escaped}/{len(arm.seeds)}" for arm in info.arms],
        range=[-0.6, len(info.arms) - 0.4],
        tickangle=0,
        tickfont={"size": 11 if narrow else 13},
        title_text="risk β, and how many seeds passed 0.9",
    )
    reward, pulls = cells(figure, 2)
    _add_dots(figure, info, [arm.final_rewards for arm in info.arms], reward, legend=True)
    _add_dots(figure, info, [arm.first_pulls for arm in info.arms], pulls, legend=False)
    figure.update_yaxes(rangemode="tozero")
    figure.add_hline(
        y=ESCAPED, line={"color": INK, "width": 1, "dash": "dot"}, row=reward.row, col=reward.col
    )
    return figure


def _add_dots(
    figure: go.Figure,
    info: _BanditInfo,
    columns: list[tuple[float | None, ...]],
    cell: Cell,
    *,
    legend: bool,
) -> None:
    xs: list[float] = []
    notes: list[str] = []
    for place, arm in enumerate(info.arms):
        count = len(arm.seeds)
        xs += [place + 0.5 * (i + 0.5) / count - 0.25 for i in range(count)]
        notes += [f"β = {arm.risk_beta:g}, seed {seed}" for seed in arm.seeds]
    ys = [value for column in columns for value in column]
    shared = {"row": cell.row, "col": cell.col, "showlegend": legend}
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="markers",
        marker={"symbol": "circle", "size": 6, "color": fade(RS_GRPO.color, 0.55)},
        hovertext=[
            f"{n}<br>{y:,.4g}" if y is not None else n for n, y in zip(notes, ys, strict=True)
        ],
        hoverinfo="text",
        name="one seed",
        **shared,
    )
    figure.add_scatter(
        x=list(range(len(columns))),
        y=[_median(column) for column in columns],
        mode="markers",
        marker={"symbol": "line-ew", "size": 26, "line": {"width": 2, "color": INK}},
        hoverinfo="y",
        name="median of the seeds that passed" if not legend else "median over seeds",
        **shared,
    )


def _median(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
