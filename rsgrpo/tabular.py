"""Rows as an aligned text table for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as text, one line each, under the names of their columns.

    Args:
        rows: Mappings with the same keys; floats are shown with four significant digits.
    """
    if not rows:
        return "(no rows)"
    cells = [[str(name) for name in rows[0]]]
    cells += [[_text(value) for value in row.values()] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )


def comma_separated(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as CSV under the names of their columns; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0] if rows else ())
    writer.writerows(row.values() for row in rows)
    return text.getvalue().rstrip("\n")


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
