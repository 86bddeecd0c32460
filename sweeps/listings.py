"""A study's trials as rows: for a screen, for programs, for a file with all that is known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsgrpo.errors import UserError, unknown
from sweeps.space import decoded
from sweeps.study import Opened

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Row = dict[str, Any]
STATES = ("complete", "running", "waiting", "failed", "pruned")
FORMATS = ("csv", "json", "parquet")


def chosen_trials(opened: Opened, states: Sequence[str] = ()) -> list[FrozenTrial]:
    """Return a study's trials by number.

    Args:
        opened: The study.
        states: Those to keep, of `STATES`; all where there is none.

    Raises:
        UserError: There is no such state.
    """
    wanted = set()
    for state in states:
        name = "failed" if state.lower() == "fail" else state.lower()
        if name not in STATES:
            raise UserError(unknown("state", state, STATES))
        wanted.add(name)
    trials = opened.study.get_trials(deepcopy=False)
    return [trial for trial in trials if not wanted or state_of(trial) in wanted]


def state_of(trial: FrozenTrial) -> str:
    """Return a trial's state in words."""
    return "failed" if trial.state.name == "FAIL" else trial.state.name.lower()


def trial_row(opened: Opened, trial: FrozenTrial) -> Row:
    """Return what is known of a trial in short: nested, for programs."""
    objectives = [objective.metric for objective in opened.plan.sweep.objectives]
    values = trial.values if trial.values is not None else [None] * len(objectives)
    kept = trial.user_attrs
    return {
        "number": trial.number,
        "state": state_of(trial),
        "params": decoded_params(opened, trial),
        "values": dict(zip(objectives, values, strict=True)),
        "constraints": dict(trial.constraints),
        "n_seeds": len(kept.get("seeds", opened.plan.sweep.seeds)),
        "tokens": kept.get("tokens"),
        "device_seconds": kept.get("device_seconds"),
        "began": _moment(trial),
        "duration_seconds": trial.duration.total_seconds() if trial.duration else None,
        "end_reason": kept.get("end_reason"),
    }


def decoded_params(opened: Opened, trial: FrozenTrial) -> Row:
    """Return a trial's point, of one that waits the values it was enqueued with."""
    point = trial.params or trial.system_attrs.get("fixed_params", {})
    return decoded(point, opened.plan.sweep)


def _moment(trial: FrozenTrial) -> str | None:
    """Return when a trial began; Optuna keeps local time without saying so."""
    began = trial.datetime_start
    return began.astimezone().isoformat(timespec="seconds") if began else None


def full_row(opened: Opened, trial: FrozenTrial) -> Row:
    """Return everything that a trial keeps: the short row, each seed's metrics, all attributes."""
    kept = dict(trial.user_attrs)
    metrics = kept.pop("metrics_by_seed", {})
    short = trial_row(opened, trial)
    reports = {str(step): value for step, value in trial.intermediate_values.items()}
    attributes = {name: value for name, value in kept.items() if name not in short}
    return {**short, "intermediate": reports, "attributes": attributes, "metrics": metrics}


def flat_rows(rows: Iterable[Mapping[str, Any]], *, short_names: bool) -> list[Row]:
    """Return rows with one cell for each leaf, all with the same columns, None where there is none.

    Args:
        rows: Nested rows.
        short_names: Leave out the names of branches (for a screen) where no two leaves share one.
    """
    flat = [dict(_leaves(row)) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    order = {name.partition("/")[0]: at for at, name in reversed(list(enumerate(columns)))}
    columns.sort(key=lambda name: order[name.partition("/")[0]])
    names = _short(columns) if short_names else {c: c.replace("/", ".", 1) for c in columns}
    return [{names[column]: row.get(column) for column in columns} for row in flat]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write full rows to a file whose ending says how: .csv, .json or .parquet.

    Raises:
        UserError: It has another ending, or its folder does not exist.
        OSError: It may not be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise UserError(f"{path} ends in none of .csv, .json, .parquet: name such a file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"the folder of {path} does not exist: make it first")
    if kind == "json":
        path.write_text(json.dumps(list(rows), indent=1), encoding="utf-8")
        return
    flat = [{n: _cell(v) for n, v in row.items()} for row in flat_rows(rows, short_names=False)]
    if kind == "csv":
        from rsgrpo.tabular import comma_separated

        path.write_text(comma_separated(flat) + "\n", encoding="utf-8")
        return
    _write_parquet(flat, path)


def shown_text(value: object) -> object:
    """Return a cell for a terminal: control characters spelled out, so that none takes effect."""
    if isinstance(value, list | dict):
        value = json.dumps(value)
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


def _leaves(row: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Yield `(branch/name, value)` of each leaf; a metric's name begins with its seed."""
    for name, value in row.items():
        if name == "metrics":
            for seed, metrics in value.items():
                yield from ((f"metrics/{seed}.{metric}", v) for metric, v in metrics.items())
        elif isinstance(value, Mapping):
            yield from ((f"{name}/{key}", v) for key, v in value.items())
        else:
            yield name, value


def _short(columns: Sequence[str]) -> dict[str, str]:
    last = [column.partition("/")[2] or column for column in columns]
    return {
        column: name if last.count(name) == 1 else column
        for column, name in zip(columns, last, strict=True)
    }


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _write_parquet(flat: Sequence[Row], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [row[name] for row in flat] for name in (flat[0] if flat else ())}
    pq.write_table(pa.table({name: _column(values) for name, values in columns.items()}), path)


def _column(values: list[Any]) -> list[Any]:
    """Return values of one kind: numbers of both kinds as floats, any other mixture as JSON."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else json.dumps(value) for value in values]
