"""Rows as an aligned text table for a terminal, or as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

# What a row is about, repeated in each part of a table that is too wide for one.
_SUBJECTS = frozenset(
    [
        "run",
        "file",
        "policy",
        "label",
        "before",
        "after",
        "metric",
        "benchmark",
        "low_k",
        "high_k",
        "k",
        "signature",
        "step",
    ]
)


def table(rows: Sequence[Mapping[str, object]], width: int | None = None) -> str:
    """Return rows as text, one line each, under the names of their columns.

    Args:
        rows: Mappings with the same keys; floats are shown with four significant digits.
        width: Characters of a line: a wider table comes in parts below one another, each with the
            columns that say what a row is about. None: as wide as it is.
    """
    if not rows:
        return "(no rows)"
    cells = [[str(name) for name in rows[0]]]
    cells += [[_text(value) for value in row.values()] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    parts = _parts(cells[0], widths, width)
    return "\n\n".join(
        "\n".join("  ".join(row[at].rjust(widths[at]) for at in part) for row in cells)
        for part in parts
    )


def _parts(names: Sequence[str], widths: Sequence[int], width: int | None) -> list[list[int]]:
    """Return the columns of each part: all that fit into `width`, at least one of its own."""
    if width is None or sum(widths) + 2 * (len(widths) - 1) <= width:
        return [list(range(len(names)))]
    subjects = [at for at, name in enumerate(names) if name in _SUBJECTS]
    used = sum(widths[at] + 2 for at in subjects)
    parts: list[list[int]] = []
    left = 0
    for at in (at for at in range(len(names)) if at not in subjects):
        if not parts or left + widths[at] > width:
            parts.append(list(subjects))
            left = used
        parts[-1].append(at)
        left += widths[at] + 2
    return parts or [subjects]


def comma_separated(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as CSV under the names of their columns; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0] if rows else ())
    writer.writerows(row.values() for row in rows)
    return text.getvalue().rstrip("\n")


def _text(value: object) -> str:
    if value is None or value != value:  # NaN alone differs from itself
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
