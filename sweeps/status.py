"""How a sweep stands: progress, rate, time left, cost so far, who works on it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from rsgrpo.config import Config
from rsgrpo.errors import UserError
from sweeps.ledger import Held, unit_lease
from sweeps.study import Opened, counted, target
from sweeps.units import Unit
from sweeps.watch import Look, watch_unit

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

COORDINATOR, TRIAL, UNIT = "sweep-", "trial-", "unit-"


class Worker(NamedTuple):
    """A holder of a lease: a coordinator or whoever runs a unit; `beat_age` in seconds.

    `step` of `steps` is how far the unit's training is, as its spool says; None for a coordinator.
    """

    host: str
    pid: int
    does: str
    step: int | None
    steps: int | None
    progress: str
    beat_age: float
    alive: bool


class Status(NamedTuple):
    """How a sweep stands. Trials that failed and were replaced by another try count once.

    `resumable` counts those of `running` that nobody alive holds. `rate_per_hour` is `ended` trials
    per hour in which anything ran, None before the first has ended; `hours_left` follows from it.
    Tokens and device-seconds are those of all attempts, of those under way too.
    """

    study: str
    target: int
    complete: int
    running: int
    waiting: int
    pruned: int
    failed: int
    resumable: int
    left: int
    ended: int
    active_hours: float
    rate_per_hour: float | None
    hours_left: float | None
    tokens: int
    device_seconds: float
    stop_asked: str | None
    last_failure: str | None
    workers: list[Worker]


def read_status(opened: Opened) -> Status:
    """Return how a sweep stands now."""
    trials = opened.study.get_trials(deepcopy=False)
    current = counted(trials)
    count = {name: _count(current, name) for name in _STATES}
    held, now = opened.ledger.held(), time.time()
    looks = _looks(opened, trials)
    ended = sum(trial.state.is_finished() for trial in current)
    wanted = target(opened)
    hours = active_seconds(_spans(opened, held, now)) / 3600
    rate = ended / hours if ended and hours > 0 else None
    left = max(wanted - ended, 0)
    return Status(
        study=opened.name,
        target=wanted,
        **count,
        resumable=_resumable(current, held),
        left=left,
        ended=ended,
        active_hours=hours,
        rate_per_hour=rate,
        hours_left=left / rate if rate else None,
        tokens=_tokens(trials, looks),
        device_seconds=_device_seconds(opened, held, now),
        stop_asked=opened.ledger.stop_asked(),
        last_failure=_last_failure(trials),
        workers=[_worker(one, looks.get(one.name)) for one in held if not _is_trial(one)],
    )


def active_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of some spans of time lasted: pauses count for nothing."""
    total, reached = 0.0, float("-inf")
    for began, ended in sorted(spans):
        total += max(ended - max(began, reached), 0.0)
        reached = max(reached, ended)
    return total


def status_lines(status: Status) -> list[str]:
    """Return a status in words, without its workers."""
    s = status
    lines = [
        f"{s.study}: {s.complete} complete, {s.running} running, {s.waiting} waiting, {s.pruned} "
        f"pruned, {s.failed} failed; {s.ended} of {s.target} trials have ended",
        _rate_line(s),
        f"cost so far: {s.tokens:,} tokens, {_duration(s.device_seconds)} of devices",
    ]
    if s.resumable:
        lines.append(f"{s.resumable} running trials have no live holder: resume takes them up")
    if s.stop_asked is not None:
        lines.append(f"it was asked to stop: {s.stop_asked}")
    if s.last_failure is not None:
        lines.append(f"last failure: {s.last_failure}")
    if not any(worker.alive for worker in s.workers):
        lines.append("nobody works on it" if s.left else "nothing is left to do")
    return lines


_STATES = ("complete", "running", "waiting", "pruned", "failed")


def _count(trials: Sequence[FrozenTrial], name: str) -> int:
    state = "FAIL" if name == "failed" else name.upper()
    return sum(trial.state.name == state for trial in trials)


def _resumable(trials: Sequence[FrozenTrial], held: Sequence[Held]) -> int:
    alive = {one.name for one in held if one.alive}
    running = [trial for trial in trials if trial.state.name == "RUNNING"]
    return sum(f"{TRIAL}{trial.number}" not in alive for trial in running)


def _spans(opened: Opened, held: Sequence[Held], now: float) -> list[tuple[float, float]]:
    spans = [(attempt.began, attempt.ended) for attempt in opened.ledger.attempts()]
    return spans + [(one.since, _until(one, now)) for one in held if one.name.startswith(UNIT)]


def _device_seconds(opened: Opened, held: Sequence[Held], now: float) -> float:
    under_way = [
        max(_until(one, now) - one.since, 0.0) * int(one.said.get("processes", 1))
        for one in held
        if one.name.startswith(UNIT)
    ]
    return math.fsum([*under_way, *(one.device_seconds for one in opened.ledger.attempts())])


def _until(one: Held, now: float) -> float:
    """Return until when a holder worked: its last sign of life, where it is gone."""
    return now if one.alive else now - one.beat_age


def _looks(opened: Opened, trials: Sequence[FrozenTrial]) -> dict[str, Look]:
    """Return how far the training of each seed under way is, by the name of its lease."""
    looks = {}
    for trial in trials:
        if trial.state.name != "RUNNING" or "config" not in trial.user_attrs:
            continue
        config = Config.model_validate_json(trial.user_attrs["config"])
        for seed in trial.user_attrs["seeds"]:
            training = config.training.model_copy(update={"seed": seed})
            seeded = config.model_copy(update={"training": training})
            unit = Unit(opened.name, trial.number, seed, seeded)
            with suppress(UserError, OSError):  # another machine's inputs may not lie here
                if watch := watch_unit(opened.root, unit, opened.plan.sweep):
                    looks[unit_lease(unit)] = watch.look()
    return looks


def _tokens(trials: Sequence[FrozenTrial], looks: dict[str, Look]) -> int:
    """Return the tokens that trials which ended keep, and those of the seeds under way."""
    kept = sum(int(trial.user_attrs.get("tokens", 0)) for trial in trials)
    return kept + sum(look.tokens for look in looks.values())


def _last_failure(trials: Sequence[FrozenTrial]) -> str | None:
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    if not failed:
        return None
    last = max(failed, key=lambda trial: (trial.datetime_complete is not None, trial.number))
    return f"trial {last.number}: {last.user_attrs.get('end_reason', 'no reason was kept')}"


def _is_trial(one: Held) -> bool:
    return one.name.startswith(TRIAL)


def _worker(one: Held, look: Look | None) -> Worker:
    does = "coordinates" if one.name.startswith(COORDINATOR) else one.name
    progress = _text(one.said.get("progress", ""))
    step, steps = (look.step, look.steps) if look else (None, None)
    beat_age = round(one.beat_age, 1)
    return Worker(one.host, one.pid, does, step, steps, progress, beat_age, one.alive)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _rate_line(status: Status) -> str:
    if status.rate_per_hour is None or status.hours_left is None:
        why = "nothing was run for those that ended" if status.ended else "no trial has ended"
        return f"rate unknown: {why}, {status.left} are left"
    from_ = f"from {status.ended} that ended in {_duration(status.active_hours * 3600)} of work"
    few = ", too few to rely on" if status.ended < 3 else ""
    left = f"about {_duration(status.hours_left * 3600)} for the {status.left} left"
    return f"{status.rate_per_hour:.3g} trials an hour ({from_}{few}); {left}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
