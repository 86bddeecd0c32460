"""What happened during training: the spool's lines as one series for each metric.

A run that was killed and resumed writes the steps after its last checkpoint twice. The first
record of a (step, metric) counts, so a resumed run reads like an undisturbed one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple


class TrainingRecord(NamedTuple):
    """One run's metrics, `{metric: {step: value}}`, and tables, `{name: {step: data}}`."""

    metrics: dict[str, dict[int, float]]
    tables: dict[str, dict[int, dict[str, Any]]]


def read_spool(lines: Iterable[str]) -> TrainingRecord:
    """Collect the lines of a spool; kinds other than metrics and tables are passed over."""
    metrics: dict[str, dict[int, float]] = defaultdict(dict)
    tables: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for record in _records(lines):
        if record["kind"] == "metrics":
            for name, value in record["values"].items():
                metrics[name].setdefault(record["step"], value)
        elif record["kind"] == "table":
            tables[record["name"]].setdefault(record["step"], record["data"])
    return TrainingRecord(dict(metrics), dict(tables))


def _records(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            # A kill in mid-write tears a line; the resumed run wrote that step again.
            continue
