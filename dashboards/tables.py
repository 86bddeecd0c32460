"""Reading the tables of a study: rows are found here, and nowhere computed anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Tables = Mapping[str, Any]
Row = Mapping[str, Any]

LABELLED = ("methods", "differences", "dynamics", "advantage_shape", "unique", "transitions")


def select(tables: Tables, table: str, **match: Any) -> list[Row]:
    """Return the rows of a table whose columns equal `match`; an absent table has no rows."""
    rows: Sequence[Row] = tables.get(table) or []
    return [row for row in rows if all(row.get(key) == value for key, value in match.items())]


def labels(tables: Tables) -> list[str]:
    """Return every policy's label once: base, GRPO, then RS-GRPO by ascending beta."""
    points = (tables.get("tradeoff") or {}).get("points") or []
    rows = [row for name in LABELLED for row in select(tables, name)]
    return ordered([*rows, *points])


def ordered(rows: Iterable[Row]) -> list[str]:
    """Return the labels of these rows once each, in the order of `labels`."""
    ranks = {row["label"]: _rank(row) for row in rows}
    return sorted(ranks, key=lambda label: ranks[label])


def headline(tables: Tables) -> str | None:
    """Return the label of the study's headline beta, or of the first RS-GRPO policy, or None."""
    wanted = study(tables).get("headline_beta")
    known = [label for label in labels(tables) if label not in ("base", "GRPO")]
    named = [] if wanted is None else [f"RS-GRPO β={wanted:g}"]
    return next((label for label in (*named, *known) if label in known), None)


def main_labels(tables: Tables) -> list[str]:
    """Return the three policies every figure shows first: base, GRPO, the headline RS-GRPO."""
    main = ("base", "GRPO", headline(tables))
    return [label for label in labels(tables) if label in main]


def study(tables: Tables) -> Row:
    """Return the study's own row: name, split, ks, resamples and the like."""
    return tables.get("study") or {}


def benchmarks(tables: Tables) -> list[str]:
    """Return the names of the benchmarks, without "mean", in the study's order."""
    named = study(tables).get("benchmarks") or []
    met = [row["benchmark"] for row in select(tables, "methods")]
    return [name for name in dict.fromkeys([*named, *met]) if name != "mean"]


def _rank(row: Row) -> tuple[int, float, str]:
    place = {"base": 0, "grpo": 1}.get(row.get("method") or "", 2)
    return place, row.get("risk_beta") or 0.0, row["label"]
