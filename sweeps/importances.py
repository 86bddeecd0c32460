"""How much each varied key matters for each objective, by PED-ANOVA over the complete trials."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

from rsgrpo.errors import UserError
from sweeps.study import Opened

FEWEST = 4


class Importance(NamedTuple):
    """A key's share of what parts the best tenth of the trials from all; shares sum to 1.

    `n_trials` is the number of complete trials that it is computed from. An objective that has the
    same value in all of them has no importances: they are NaN.
    """

    metric: str
    key: str
    importance: float
    n_trials: int


def importances(opened: Opened) -> list[Importance]:
    """Return the importance of each varied key for each objective, largest first.

    Raises:
        UserError: Fewer than four trials are complete, or no key varies among them.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    complete = opened.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEWEST:
        raise UserError(
            f"{len(complete)} trials are complete: importances need at least {FEWEST}, run more"
        )
    rows: list[Importance] = []
    for at, objective in enumerate(opened.plan.sweep.objectives):
        sign = -1 if objective.direction == "maximize" else 1  # the lowest targets are its best
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_param_importances(
                opened.study,
                evaluator=PedAnovaImportanceEvaluator(),
                target=lambda trial, at=at, sign=sign: sign * trial.values[at],  # type: ignore[misc]
            )
        varies = len({trial.values[at] for trial in complete}) > 1
        rows += [
            Importance(objective.metric, key, share if varies else math.nan, len(complete))
            for key, share in found.items()
        ]
    if not rows:
        raise UserError(
            f"no key varies among the {len(complete)} complete trials: run trials that differ"
        )
    return rows
