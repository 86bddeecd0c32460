"""The stage `analyse`: from the scores and spools of a study to its tables and its one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsgrpo.analyses.headline import headline, headline_table, sentence
from rsgrpo.analyses.places import SPOOL, read_log, read_score
from rsgrpo.analyses.study import Identity, Study, build_study
from rsgrpo.analyses.tables import (
    advantage_shape_rows,
    diagnosis_rows,
    difference_rows,
    dynamics_rows,
    method_rows,
    tradeoff_table,
    transition_rows,
    unique_rows,
)
from rsgrpo.config import Config
from rsgrpo.errors import UserError

LEVEL = 0.95
_SUMMARY_FIELDS = (
    "policy",
    "method",
    "risk_beta",
    "seed",
    "benchmark",
    "k",
    "pass_at_k",
    "low",
    "high",
    "n_samples",
    "n_prompts",
)


def analyse(
    config: Config, *, scores: Mapping[str, Path], runs: Mapping[str, Path], out: Path
) -> None:
    """Analyse a study: write `tables.json` and `summary.json` into `out`.

    Args:
        config: Its evaluation branch gives k, headline and resamples, its study branch the beta of
            the headline.
        scores: The score stage's folder of each policy, by policy name.
        runs: The train stage's folder of each trained policy; may be empty.
        out: Folder to write into.

    Raises:
        UserError: A folder lacks its files, a run has no score, there is no score at all, or two
            policies were scored on different prompts.
    """
    settings = config.evaluation
    policies = {name: read_score(folder) for name, folder in scores.items()}
    study = build_study(
        list(policies.values()),
        ks=settings.ks,
        headline_k=settings.headline_k,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    identities = [policy.identity for policy in study.policies]
    records = [(i, read_log(runs[i.policy] / SPOOL)) for i in identities if i.policy in runs]
    _refuse_unscored(runs, identities)
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "study": _study_fields(config, study),
        "passk": _passk_rows(study),
        "methods": method_rows(study),
        "differences": difference_rows(study),
        "tradeoff": tradeoff_table(study),
        "dynamics": dynamics_rows(records),
        "advantage_shape": advantage_shape_rows(records),
        "unique": unique_rows(study),
        "transitions": transition_rows(study),
        "diagnosis": diagnosis_rows(study, records),
    }
    _write_json(tables, out / "tables.json")
    _write_json(_summary(config, study), out / "summary.json")


def _study_fields(config: Config, study: Study) -> dict[str, Any]:
    trained = [policy for policy in study.policies if policy.identity.method != "base"]
    return {
        "name": config.name,
        "split": config.sampling.split,
        "ks": study.ks,
        "headline_k": study.headline_k,
        "headline_beta": config.study.headline_beta,
        "resamples": study.resamples,
        "level": LEVEL,
        "seeds": sorted({policy.identity.seed for policy in trained or study.policies}),
        "n_samples": study.n_samples,
        "n_prompts": len(study.benchmarks_P),
        "benchmarks": list(dict.fromkeys(study.benchmarks_P.tolist())),
    }


def _summary(config: Config, study: Study) -> dict[str, Any]:
    found = headline(study, config.study.headline_beta)
    held_out = config.data.source == "countdown"
    return {
        "rows": [{name: row[name] for name in _SUMMARY_FIELDS} for row in _passk_rows(study)],
        "headline": headline_table(found),
        "sentence": sentence(found, "held-out problems" if held_out else "benchmark problems"),
    }


def _passk_rows(study: Study) -> list[dict[str, Any]]:
    return [row for policy in study.policies for row in policy.rows]


def _refuse_unscored(runs: Mapping[str, Path], identities: list[Identity]) -> None:
    unscored = set(runs) - {identity.policy for identity in identities}
    if unscored:
        names = ", ".join(sorted(unscored))
        raise UserError(f"there is a run but no score for {names}: score every trained policy")


def _write_json(tree: Mapping[str, Any], path: Path) -> None:
    text = json.dumps(_finite(tree), sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _finite(tree: Any) -> Any:
    """Return the tree with every NaN and infinity, which JSON cannot write, as None."""
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
