"""The order of the report: for each figure its heading, how to read it, and what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import plotly.graph_objects as go

from dashboards import figures, twins
from dashboards.figures.dynamics import _get_dynamics_info
from dashboards.figures.passk_grid import _get_passk_grid_info
from dashboards.panels import percent, span
from dashboards.tables import Row, Tables, headline, labels, main_labels, select, study


class Plot(Protocol):
    """A figure function."""

    def __call__(self, tables: Tables, *, narrow: bool = False) -> go.Figure:
        """Draw the tables, for a wide or a narrow page."""


class Section(NamedTuple):
    """One figure of the report. `id` is fixed, so that links into the report keep working."""

    id: str
    title: str
    reading: str
    plot: Plot
    caption: Callable[[Tables], str]
    twin: Callable[[Tables], twins.Twin]


def _passk_mean_caption(tables: Tables) -> str:
    rows = select(tables, "methods", benchmark="mean")
    return f"Unbiased pass@k, uniform mean over benchmarks. {_ground(rows)} {_bootstrap(tables)}"


def _passk_grid_caption(tables: Tables) -> str:
    info, main = _get_passk_grid_info(tables), main_labels(tables)
    rows = [r for r in select(tables, "methods") if r["benchmark"] != "mean" and r["label"] in main]
    how = "" if info.bands else " Error bars stand for the bands."
    left_out = f" Only in the table: {', '.join(info.left_out)}." if info.left_out else ""
    others = [label for label in labels(tables) if label not in main]
    more = f" {_listed(others)}: in the table." if others else ""
    start = "Unbiased pass@k by benchmark; a line ends where fewer than k samples were drawn."
    return f"{start} {_ground(rows)} {_bootstrap(tables)}{how}{more}{left_out}"


def _tradeoff_caption(tables: Tables) -> str:
    table = tables.get("tradeoff") or {}
    points: Sequence[Row] = table.get("points") or []
    knee = f"Knee: {table['knee']}" if table.get("knee") else "No knee is named"
    share = table.get("knee_share")
    chosen = (
        f"; the same point in {percent(share, 0)} of the resamples" if share is not None else ""
    )
    rule = f" Rule: {str(table['rule']).rstrip('.')}." if table.get("rule") else ""
    return (
        f"Mean over benchmarks. {_ground(points)} {_bootstrap(tables)} {knee}{chosen}.{rule} "
        "Faded points are dominated: another has more of both."
    )


def _difference_caption(tables: Tables) -> str:
    rows = select(tables, "differences", benchmark="mean")
    return (
        "Policy minus baseline on the same prompts, mean over benchmarks; differences by benchmark "
        f"are in the table. {_ground(rows)} {_bootstrap(tables, 'paired bootstrap')}"
    )


def _dynamics_caption(tables: Tables) -> str:
    rows = select(tables, "dynamics")
    info = _get_dynamics_info(tables)
    left_out = f" Only in the table: {_listed(info.left_out)}." if info.left_out else ""
    thin = " Thin lines: each seed." if info.with_raw else ""
    others = " Other betas: the median alone." if info.others else ""
    return (
        "One point for each training step. Reward and shares: all groups as drawn; the others: the "
        f"groups that were trained on. Seeds: {_seeds(rows)}. Line: median over seeds. Band: from "
        f"the lowest to the highest seed, no confidence interval.{thin}{others}{left_out}"
    )


def _advantage_caption(tables: Tables) -> str:
    rows = select(tables, "advantage_shape", label=headline(tables))
    groups = sum(sum(row["groups"]) for row in rows)
    size = span([row["correct"][-1] for row in rows])
    return (
        f"{headline(tables) or 'No policy'}: {groups:,} groups of {size} samples, "
        f"{len({row['step'] for row in rows})} logged steps, seeds {_seeds(rows)}. Counts of what "
        "training saw, so without an interval. Groups with no or only correct samples carry no "
        "signal and are left out of the histograms."
    )


def _unique_caption(tables: Tables) -> str:
    rows = [row for row in select(tables, "unique") if row["benchmark"] != "mean"]
    return (
        f"Mean over prompts and seeds, counted at equal n. {_ground(rows)} Bar: 95% interval, "
        "1.96 standard errors over prompts of each prompt's mean over seeds. Where the solutions "
        "can be enumerated, a horizontal line marks how many there are."
    )


def _transitions_caption(tables: Tables) -> str:
    rows = select(tables, "transitions", benchmark="all")
    return (
        "A prompt is solved if at least one sample is correct. One dot for each seed; base and "
        f"trained policy are compared at the same number of samples. {_ground(rows)} "
        "Bar: 95% interval."
    )


def _bandit_caption(tables: Tables) -> str:
    rows = select(tables, "bandit")
    seeds = len({row["seed"] for row in rows})
    return f"100 arms, {seeds} seeds for each beta, one dot each; no interval: all seeds are shown."


def _bandit_twin(tables: Tables) -> twins.Twin:
    head = ("risk beta", "seed", "final reward", "first pull above 0.9")
    rows = sorted(select(tables, "bandit"), key=lambda row: (row["risk_beta"], row["seed"]))
    first = "first_pull_above_0.9"
    shown = tuple(
        (
            f"{row['risk_beta']:g}",
            str(row["seed"]),
            f"{row['final_reward']:.3f}",
            "never" if row[first] is None else f"{row[first]:,}",
        )
        for row in rows
    )
    return twins.Twin("the bandit, seed by seed", head, shown)


def _ground(rows: Sequence[Row]) -> str:
    samples = span([row["n_samples"] for row in rows])
    prompts = span([row["n_prompts"] for row in rows])
    seeds = _seeds(rows)
    noun = "seeds" if "," in seeds else "seed"
    return f"{samples} samples for each of {prompts} prompts, {noun} {seeds}."


def _seeds(rows: Sequence[Row]) -> str:
    found = {seed for row in rows for seed in row.get("seeds") or []}
    found |= {row["seed"] for row in rows if row.get("method") != "base" and "seed" in row}
    return ", ".join(str(seed) for seed in sorted(found)) or "none"


def _bootstrap(tables: Tables, name: str = "bootstrap") -> str:
    resamples = study(tables).get("resamples")
    times = f", {resamples:,} resamples" if resamples else ""
    level = study(tables).get("level") or 0.95
    drawn = "prompts and seeds" if len(study(tables).get("seeds") or []) > 1 else "prompts"
    return f"Interval: {level:.0%}, {name} over {drawn}{times}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


SECTIONS = (
    Section(
        "figure-passk-mean",
        "pass@k",
        "How often is a problem solved when k samples may be drawn? The left end is the policy's "
        "accuracy, the right end its coverage.",
        figures.plot_passk_mean,
        _passk_mean_caption,
        twins.passk_mean_twin,
    ),
    Section(
        "figure-difference",
        "Is it better?",
        "Above zero the policy beats the baseline. Where the band holds zero, these prompts and "
        "seeds do not decide.",
        figures.plot_difference,
        _difference_caption,
        twins.difference_twin,
    ),
    Section(
        "figure-tradeoff",
        "What it costs",
        "Right is more accurate in one sample, up is more often solved in many. No policy on the "
        "front can gain on one axis without giving up on the other.",
        figures.plot_tradeoff,
        _tradeoff_caption,
        twins.tradeoff_twin,
    ),
    Section(
        "figure-passk-grid",
        "pass@k by benchmark",
        "The mean hides where a gain comes from: each benchmark by itself, all on one scale.",
        figures.plot_passk_grid,
        _passk_grid_caption,
        twins.passk_grid_twin,
    ),
    Section(
        "figure-transitions",
        "Newly solved, newly lost",
        "First panel: of the prompts that the base policy never solved, the share solved after "
        "training. Second: of those it solved, the share lost.",
        figures.plot_transitions,
        _transitions_caption,
        twins.transitions_twin,
    ),
    Section(
        "figure-unique",
        "Different solutions",
        "Does a policy know several ways, or one way by heart? In the second panel, a line that "
        "rises late belongs to a policy that finds most of what there is.",
        figures.plot_unique_solutions,
        _unique_caption,
        twins.unique_twin,
    ),
    Section(
        "figure-dynamics",
        "Training",
        "Reward and entropy of the policy as it trains; groups whose samples all fail or all pass "
        "teach nothing.",
        figures.plot_dynamics,
        _dynamics_caption,
        twins.dynamics_twin,
    ),
    Section(
        "figure-advantages",
        "Where the signal goes",
        "Both advantages of the same groups. The risk-sensitive one moves weight to groups that "
        "seldom succeed: the dotted line is the formula, the marks are what was measured.",
        figures.plot_advantage_histograms,
        _advantage_caption,
        twins.advantage_twin,
    ),
)

BANDIT = Section(
    "figure-bandit",
    "The bandit",
    "Every run starts near a lower peak of 0.60; the best arm gives 1.0. Which betas get there?",
    figures.plot_bandit,
    _bandit_caption,
    _bandit_twin,
)


def sections(tables: Tables) -> tuple[Section, ...]:
    """Return the report's sections; the bandit only where it was run."""
    return (*SECTIONS, BANDIT) if select(tables, "bandit") else SECTIONS
