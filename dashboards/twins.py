"""The table behind each figure: what a reader, a screen reader or a spreadsheet takes instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dashboards.figures.advantage_histograms import (
    RISK_SENSITIVE,
    STANDARD,
    _get_advantage_info,
)
from dashboards.figures.dynamics import METRICS
from dashboards.figures.unique_solutions import MEASURES, unique_means
from dashboards.panels import percent
from dashboards.tables import Row, Tables, labels, select, study

Cells = tuple[str, ...]


class Twin(NamedTuple):
    """A table of plain text; the writer of the page escapes it. The first column names the row."""

    caption: str
    header: Cells
    rows: tuple[Cells, ...]


def passk_mean_twin(tables: Tables) -> Twin:
    """Return pass@k of every policy, mean over benchmarks."""
    rows = _by_label(tables, select(tables, "methods", benchmark="mean"))
    return Twin("pass@k, mean over benchmarks", _PASSK, tuple(_passk(row) for row in rows))


def passk_grid_twin(tables: Tables) -> Twin:
    """Return pass@k of every policy on every benchmark."""
    rows = [row for row in select(tables, "methods") if row["benchmark"] != "mean"]
    ordered = _by_label(tables, rows)
    return Twin("pass@k by benchmark", _PASSK, tuple(_passk(row) for row in ordered))


def tradeoff_twin(tables: Tables) -> Twin:
    """Return pass@1 and pass@k of every policy, and which lie on the front."""
    table = tables.get("tradeoff") or {}
    k = table.get("k", "k")
    head = ("policy", "pass@1", "95% interval", f"pass@{k}", "95% interval", "place", *_SIZES)
    rows = tuple(
        (
            row["label"],
            percent(row["pass_at_1"]),
            _interval(row["pass_at_1_low"], row["pass_at_1_high"]),
            percent(row["pass_at_k"]),
            _interval(row["pass_at_k_low"], row["pass_at_k_high"]),
            _place(row, table.get("knee")),
            *_sizes(row),
        )
        for row in _by_label(tables, table.get("points") or [])
    )
    return Twin(f"pass@1 against pass@{k}", head, rows)


def difference_twin(tables: Tables) -> Twin:
    """Return every paired difference of pass@k, by baseline and benchmark."""
    head = ("policy", "minus", "benchmark", "k", "points", "95% interval", *_SIZES)
    rows = tuple(
        (
            row["label"],
            row["baseline"],
            row["benchmark"],
            str(row["k"]),
            _points(row["difference"]),
            f"{_points(row['low'])} to {_points(row['high'])}",
            *_sizes(row),
        )
        for row in _by_label(tables, select(tables, "differences"))
    )
    return Twin("difference of pass@k in percentage points, paired by prompt", head, rows)


def dynamics_twin(tables: Tables) -> Twin:
    """Return five evenly spaced values of every metric shown, run by run."""
    head = ("policy", "seed", "metric", "steps", "first", "at 1/4", "at 1/2", "at 3/4", "last")
    rows = tuple(
        (
            row["label"],
            str(row["seed"]),
            METRICS[row["metric"]],
            f"{row['steps'][0]:g} to {row['steps'][-1]:g}",
            *(_number(row["values"][i]) for i in _quarters(len(row["values"]))),
        )
        for row in _by_label(tables, select(tables, "dynamics"))
        if row["steps"] and row["metric"] in METRICS
    )
    return Twin("training metrics over steps", head, rows)


def advantage_twin(tables: Tables) -> Twin:
    """Return the share of total |A| and the weight per sample by accuracy of the group."""
    info = _get_advantage_info(tables)
    head = (
        "accuracy",
        "groups",
        "share, standard",
        "share, risk-sensitive",
        "share, theory",
        "weight, standard",
        "weight, risk-sensitive",
    )
    rows = tuple(
        (
            percent(p),
            str(info.groups[i]),
            percent(info.shares[STANDARD][i]),
            percent(info.shares[RISK_SENSITIVE][i]),
            percent(info.theory_shares[i]),
            _number(info.weights[STANDARD][i]),
            _number(info.weights[RISK_SENSITIVE][i]),
        )
        for i, p in enumerate(info.accuracies)
    )
    return Twin(f"total |A| by accuracy of the group, {info.label or 'no policy'}", head, rows)


def unique_twin(tables: Tables) -> Twin:
    """Return the distinct solutions found per prompt, with the number that exist."""
    measure, means = unique_means(tables)
    there = {row["benchmark"]: row.get("n_trees") for row in select(tables, "unique")}
    known = measure == "unique_trees"
    head = ("policy", "benchmark", "found", "95% interval", "all there are", "prompts", "seeds")
    rows = tuple(
        (
            mean.label,
            mean.benchmark,
            _number(mean.value),
            "–" if mean.low is None else f"{_number(mean.low)} to {_number(mean.high)}",
            _number(there[mean.benchmark] if known else None),
            str(mean.n_prompts),
            str(mean.seeds),
        )
        for mean in means
    )
    return Twin(MEASURES[measure], head, rows)


def transitions_twin(tables: Tables) -> Twin:
    """Return the matrix of prompts solved before and after, run by run."""
    head = (
        "policy",
        "seed",
        "benchmark",
        "newly solved",
        "95% interval",
        "newly lost",
        "95% interval",
        "significantly gained",
        "significantly lost",
        "samples",
        "prompts",
    )
    found = [row for row in select(tables, "transitions") if row["method"] != "base"]
    rows = tuple(_transition(row) for row in _by_label(tables, found))
    return Twin("prompts solved at least once, before and after training", head, rows)


def _transition(row: Row) -> Cells:
    unsolved = row["unsolved_solved"] + row["unsolved_unsolved"]
    solved = row["solved_unsolved"] + row["solved_solved"]
    return (
        row["label"],
        str(row["seed"]),
        row["benchmark"],
        f"{row['unsolved_solved']} of {unsolved} ({percent(row['newly_solved_share'])})",
        _interval(row["newly_solved_low"], row["newly_solved_high"]),
        f"{row['solved_unsolved']} of {solved} ({percent(row['newly_lost_share'])})",
        _interval(row["newly_lost_low"], row["newly_lost_high"]),
        str(row["significantly_gained"]),
        str(row["significantly_lost"]),
        str(row["n_samples"]),
        str(row["n_prompts"]),
    )


_SIZES = ("samples", "prompts", "seeds")
_PASSK = ("policy", "benchmark", "k", "pass@k", "95% interval", *_SIZES)


def _passk(row: Row) -> Cells:
    return (
        row["label"],
        row["benchmark"],
        str(row["k"]),
        percent(row["pass_at_k"]),
        _interval(row["low"], row["high"]),
        *_sizes(row),
    )


def _sizes(row: Row) -> Cells:
    seeds = ", ".join(str(seed) for seed in row.get("seeds") or [])
    return str(row["n_samples"]), str(row["n_prompts"]), seeds or "–"


def _by_label(tables: Tables, rows: Sequence[Row]) -> list[Row]:
    place = {label: i for i, label in enumerate(labels(tables))}
    names = study(tables).get("benchmarks") or []
    order = {name: i for i, name in enumerate(names)}

    def key(row: Row) -> tuple[Any, ...]:
        name = row.get("benchmark", "")
        return order.get(name, -1 if name in ("mean", "all") else len(order)), place[row["label"]]

    return sorted(rows, key=key)


def _place(row: Row, knee: str | None) -> str:
    place = "on the front" if row["on_front"] else "dominated"
    return f"{place}, knee" if row["label"] == knee else place


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _quarters(count: int) -> list[int]:
    return [round(share * (count - 1) / 4) for share in range(5)]
