"""The sweep over beta as an Optuna study: a grid, asked for trial by trial, told pass@1 and pass@k.

A trial owns all seeds of its beta; its values are means over them. The study lives in
`optuna.db` of the output root and outlives every process: a trial that was running when its process
was killed is gone on with, one that failed is tried again, one that is complete is never repeated.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rsgrpo.config import Config

if TYPE_CHECKING:
    import optuna

BETA = "risk_beta"
STORAGE = "optuna.db"


class SeedValue(NamedTuple):
    """What one seed of a trial gave, in [0, 1], means over the benchmarks."""

    seed: int
    pass_at_1: float
    pass_at_k: float


def study_name(config: Config, made_of: str = "") -> str:
    """Return the study's name: the config's, and a digest of all that its trials share.

    Betas may be added to a study. Anything else that is changed makes another study, so that no
    trial is compared with one that was made under other settings.

    Args:
        config: The sweep's config.
        made_of: What else the trials are made of: data, base policy, code, packages.
    """
    shared = config.model_dump(mode="json")
    for other in ("risk_betas", "rollouts", "headline_beta"):
        shared["study"].pop(other)
    text = json.dumps([shared, made_of], sort_keys=True)
    return f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def open_study(config: Config, root: Path, made_of: str = "") -> optuna.Study:
    """Open the study of a config, making it where there is none, with its grid enqueued.

    Args:
        config: Its study branch names the betas and seeds.
        root: The output root; the study is kept in its `optuna.db`.
        made_of: As for `study_name`.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{root / STORAGE}",
        study_name=study_name(config, made_of),
        directions=["maximize", "maximize"],
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["pass_at_1", f"pass_at_{config.evaluation.headline_k}"])
    for beta in config.study.risk_betas:
        if beta not in _live_betas(study):
            study.enqueue_trial({BETA: beta}, user_attrs={"seeds": list(config.study.seeds)})
    return study


def next_betas(study: optuna.Study, betas: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Yield (trial number, beta) of each trial to run: those that were begun, then those enqueued.

    Args:
        study: The study.
        betas: The grid. Trials of other betas that run are left alone, those that wait are taken
            out until a sweep names their beta again.
    """
    import optuna

    if not betas:
        return
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        beta = _beta(trial)
        if beta in betas:
            yield trial.number, beta
    while study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.WAITING]):
        asked = study.ask()
        if _beta(study.trials[asked.number]) in betas:
            yield asked.number, asked.suggest_float(BETA, min(betas), max(betas))
        else:  # enqueued by a wider grid, which will enqueue it again
            tell_failure(study, asked.number, "its beta is not part of this sweep")


def tell(study: optuna.Study, number: int, seeds: Sequence[SeedValue]) -> None:
    """Tell a trial its values: the means over its seeds, each seed's own kept beside them."""
    import optuna

    stored = study.trials[number]
    if stored.state.is_finished():
        return
    trial = optuna.trial.Trial(study, stored._trial_id)
    for name, value in _attributes(seeds).items():
        trial.set_user_attr(name, value)
    n = len(seeds)
    values = [sum(s.pass_at_1 for s in seeds) / n, sum(s.pass_at_k for s in seeds) / n]
    study.tell(number, values)


def tell_failure(study: optuna.Study, number: int, reason: str) -> None:
    """Mark a trial as failed, with the sentence that says why; the next sweep tries it again."""
    import optuna

    stored = study.trials[number]
    if stored.state.is_finished():
        return
    optuna.trial.Trial(study, stored._trial_id).set_user_attr("failure", reason)
    study.tell(number, state=optuna.trial.TrialState.FAIL)


def seed_value(rows: Sequence[Mapping[str, Any]], seed: int, k: int) -> SeedValue:
    """Read a seed's values out of its pass@k rows.

    Args:
        rows: The rows of `passk.json`, see `rsgrpo.records.PassKRow`.
        seed: The RL seed.
        k: The headline k.
    """
    last = rows[-1]["benchmark"]  # the mean, or the only benchmark
    values = {row["k"]: row["pass_at_k"] for row in rows if row["benchmark"] == last}
    return SeedValue(seed, values[1], values[k])


def _attributes(seeds: Sequence[SeedValue]) -> dict[str, list[float]]:
    return {
        "seeds": [s.seed for s in seeds],
        "pass_at_1_by_seed": [s.pass_at_1 for s in seeds],
        "pass_at_k_by_seed": [s.pass_at_k for s in seeds],
    }


def _live_betas(study: optuna.Study) -> set[float]:
    from optuna.trial import TrialState

    live = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)
    return {_beta(trial) for trial in study.get_trials(deepcopy=False, states=live)}


def _beta(trial: optuna.trial.FrozenTrial) -> float:
    enqueued = trial.system_attrs.get("fixed_params", {})
    return float(trial.params.get(BETA, enqueued.get(BETA, float("nan"))))
