"""The sweep over beta that a study's config asks for: a grid, each point with every seed."""

from __future__ import annotations

import hashlib
import json

from rsgrpo.config import Config
from rsgrpo.config_training import AdvantageConfig
from sweeps.config import Objective, Parameter, StopsConfig, SweepConfig
from sweeps.space import Sweep

BETA = "training.risk_beta"


def beta_sweep_of(config: Config) -> Sweep:
    """Return the sweep over `study.risk_betas` with `study.seeds`, for pass@1 and the headline k.

    Its config holds nothing but what all trials share.

    Args:
        config: The study; it names at least one beta.
    """
    objectives = (1, config.evaluation.headline_k)
    sweep = SweepConfig(
        space={BETA: Parameter(values=tuple(dict.fromkeys(config.study.risk_betas)))},
        seeds=config.study.seeds,
        objectives=tuple(Objective(metric=f"pass_at_{k}") for k in dict.fromkeys(objectives)),
        max_failure_rate=1.0,
        stops=StopsConfig(non_finite=False),  # the study wants every run of its config, to its end
    )
    shared = config.model_copy(
        update={
            "study": type(config.study)(),
            "training": config.training.model_copy(
                update={"advantage": AdvantageConfig(name="rs_grpo")}
            ),
        }
    )
    return Sweep(shared, sweep)


def study_name(config: Config, made_of: str = "") -> str:
    """Return the study's name: the config's, and a digest of its grid and all that trials share.

    Whatever of it is changed makes another study, so that no trial is compared with one that was
    made under other settings. A policy that was trained for one study is reused by another.

    Args:
        config: The sweep's config.
        made_of: What else the trials are made of: data, base policy, code, packages.
    """
    shared = config.model_dump(mode="json")
    for other in ("grpo", "rollouts", "headline_beta"):
        shared["study"].pop(other)
    text = json.dumps([shared, made_of], sort_keys=True)
    return f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
