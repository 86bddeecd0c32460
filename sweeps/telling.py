"""How a trial's end is told to its study: values, a reason, and what it cost.

Whatever is written may be written again: a trial that has ended stays as it is, and one whose
holder was killed between two lines is told anew by the next.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from sweeps.study import Opened
from sweeps.values import constraint_values, objective_values, values_by_seed

if TYPE_CHECKING:
    import optuna

ENDING = "ending"


class Account(NamedTuple):
    """What the seeds of a trial left and used: MLflow run, score folder and tokens of each seed."""

    runs: dict[str, str]
    scores: dict[str, str]
    tokens: int


def tell_values(
    opened: Opened,
    trial: optuna.Trial,
    metrics_by_seed: Mapping[int, Mapping[str, float]],
    base: Mapping[str, float],
    account: Account,
) -> None:
    """Tell a trial's values, the means over its seeds; each seed's own are kept beside them.

    Args:
        opened: The study.
        trial: The trial.
        metrics_by_seed: Every metric of every seed.
        base: The base policy's metrics, empty where no constraint needs them.
        account: What the seeds left.

    Raises:
        UserError: A seed lacks a metric that is sought.
    """
    sweep = opened.plan.sweep
    values = objective_values(metrics_by_seed, sweep)
    bounds = constraint_values(metrics_by_seed, base, sweep)
    kept = {str(seed): dict(metrics) for seed, metrics in metrics_by_seed.items()}
    by_seed = values_by_seed(metrics_by_seed, sweep)
    with _unless_told(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a constraint that an interrupted tell has set
        for name, value in bounds.items():
            trial.set_constraint(name, value)
        _keep(
            opened, trial, account, metrics_by_seed=kept, values_by_seed=by_seed, end_reason="done"
        )
        opened.study.tell(trial.number, values, skip_if_finished=True)


def tell_pruned(opened: Opened, trial: optuna.Trial, reason: str, account: Account) -> None:
    """End a trial that trails the others or was stopped for its own good."""
    from optuna.trial import TrialState

    _tell_state(opened, trial, TrialState.PRUNED, reason, account)


def tell_failed(opened: Opened, trial: optuna.Trial, reason: str, account: Account) -> None:
    """End a trial that failed, with the sentence that says why."""
    from optuna.trial import TrialState

    _tell_state(opened, trial, TrialState.FAIL, reason, account)


def mark_ending(trial: optuna.Trial, reason: str) -> None:
    """Note that a trial is being ended, before its runs are: whoever adopts it will end it too."""
    trial.set_user_attr(ENDING, reason)


def _tell_state(
    opened: Opened, trial: optuna.Trial, state: Any, reason: str, account: Account
) -> None:
    with _unless_told():
        _keep(opened, trial, account, end_reason=reason)
        opened.study.tell(trial.number, state=state, skip_if_finished=True)


@contextmanager
def _unless_told() -> Iterator[None]:
    """Leave a trial that has ended as it is: it was told, and the storage's answer was lost."""
    from optuna.exceptions import UpdateFinishedTrialError

    with suppress(UpdateFinishedTrialError):
        yield


def _keep(opened: Opened, trial: optuna.Trial, account: Account, **attributes: Any) -> None:
    attempts = [one for one in opened.ledger.attempts() if one.trial == trial.number]
    seconds = sum(one.device_seconds for one in attempts)
    cost = {**account._asdict(), "device_seconds": round(seconds, 1)}
    for name, value in {**cost, **attributes}.items():
        if value or name in ("tokens", "device_seconds"):
            trial.set_user_attr(name, value)
