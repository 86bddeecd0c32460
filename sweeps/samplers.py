"""Who chooses a trial's point, and who ends a trial that trails: Optuna's, anew for each trial.

A sampler that lives as long as its process draws what depends on how often that was killed. Here
each trial has a sampler of its own, whose seed follows from the sweep's and the trial's number.
"""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Any

from sweeps.config import PrunerConfig, SamplerConfig

if TYPE_CHECKING:
    import optuna


def sampler_of(config: SamplerConfig) -> optuna.samplers.BaseSampler:
    """Return the sampler of a sweep.

    Args:
        config: Its kind and seed. A grid's points are enqueued, so that nothing is left to draw.
    """
    from optuna.samplers import BaseSampler

    class PerTrial(BaseSampler):
        def __init__(self) -> None:
            self._number = -1
            self._inner: BaseSampler = _seeded(config, 0)

        def _of(self, trial: Any) -> BaseSampler:
            if trial.number != self._number:
                self._number, self._inner = trial.number, _seeded(config, trial.number)
            return self._inner

        def before_trial(self, study: Any, trial: Any) -> None:
            self._of(trial).before_trial(study, trial)

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self._of(trial).infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self._of(trial).sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            # by the key too: a trial adopted between two of its keys draws the second as it would
            alone = _seeded(config, trial.number, name)
            return alone.sample_independent(study, trial, name, distribution)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            self._of(trial).after_trial(study, trial, state, values)

    return PerTrial()


def pruner_of(config: PrunerConfig) -> optuna.pruners.BasePruner:
    """Return the pruner of a sweep; its resource is the generation step."""
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if config.name == "asha":
        return SuccessiveHalvingPruner(
            min_resource=max(config.warmup_steps, config.every),
            reduction_factor=config.reduction_factor,
        )
    if config.name == "median":
        return MedianPruner(config.startup_trials, config.warmup_steps)
    return NopPruner()


def draw_seed(seed: int, number: int, key: str = "") -> int:
    """Return the seed of one trial's draw, of all of its keys together or of one."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}:{key}".encode()).digest()[:4], "big")


def _seeded(config: SamplerConfig, number: int, key: str = "") -> optuna.samplers.BaseSampler:
    import optuna

    seed = draw_seed(config.seed, number, key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if config.name == "tpe":
            # group: conditional keys are modelled with those that they appear with; the liar keeps
            # trials that run side by side apart
            return optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=config.startup_trials,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
        if config.name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=config.population)
        return optuna.samplers.RandomSampler(seed=seed)
