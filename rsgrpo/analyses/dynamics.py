"""What happened during training: the spool's lines as one series for each metric.

A run that was killed and resumed writes the steps after its last checkpoint twice. The first
record of a (step, metric), and of a (step, round) of draws, counts, so a resumed run reads like an
undisturbed one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

TRAINING_SET = "train.jsonl"


class Draw(NamedTuple):
    """The prompts of one round of a step: ids, samples of each, correct samples of each."""

    n: int
    prompts_P: list[str]
    correct_P: list[int]


class TrainingRecord(NamedTuple):
    """One run's metrics, `{metric: {step: value}}`, and tables, `{name: {step: data}}`.

    `draws` holds what each (step, round) drew, round 0 being the first pass; `run` is the run's
    lasting id, `tags` who it is, `n_prompts` the size of its training set; `status` is how it ended
    last, None where it did not.
    """

    metrics: dict[str, dict[int, float]]
    tables: dict[str, dict[int, dict[str, Any]]]
    draws: Mapping[tuple[int, int], Draw] = {}
    run: str = ""
    tags: Mapping[str, str] = {}
    n_prompts: int | None = None
    status: str | None = None


def read_spool(lines: Iterable[str]) -> TrainingRecord:
    """Collect the lines of a training run's spool; kinds that are not listed are passed over."""
    metrics: dict[str, dict[int, float]] = defaultdict(dict)
    tables: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    draws: dict[tuple[int, int], Draw] = {}
    known: dict[str, Any] = {}
    for record in _records(lines):
        kind = record["kind"]
        if kind == "metrics":
            for name, value in record["values"].items():
                metrics[name].setdefault(record["step"], float(value))
        elif kind == "table":
            tables[record["name"]].setdefault(record["step"], record["data"])
        elif kind == "draws":
            draw = Draw(record["n"], record["prompts"], record["correct"])
            draws.setdefault((record["step"], record["round"]), draw)
        elif kind == "start":
            known.update(run=record["run"], tags=record["tags"], status=None)
        elif kind == "dataset" and record["name"] == TRAINING_SET:
            known["n_prompts"] = record["rows"]
        elif kind == "end":
            known["status"] = record["status"]
    return TrainingRecord(dict(metrics), dict(tables), draws, **known)


def _records(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            # A kill in mid-write tears a line; the resumed run wrote that step again.
            continue
        if isinstance(record, dict) and "kind" in record:
            yield record
