"""The tables behind the report's figures, each computed from a study's scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rsgrpo.analyses.diagnosis import diagnose
from rsgrpo.analyses.diversity import rarefied
from rsgrpo.analyses.dynamics import TrainingRecord
from rsgrpo.analyses.places import counts_of
from rsgrpo.analyses.study import Identity, Method, PolicyScore, Study, View
from rsgrpo.analyses.tradeoff import RULE, Tradeoff, farthest_from_chord, tradeoff
from rsgrpo.analyses.transitions import transitions
from rsgrpo.evaluation.compare import (
    Estimate,
    method_estimate,
    paired_difference,
    resampled_methods,
)
from rsgrpo.evaluation.prompts import PromptScore
from rsgrpo.evaluation.resampling import mean_weights

Row = dict[str, Any]
BASELINES = ("base", "grpo")


def method_rows(study: Study) -> list[Row]:
    """Return pass@k of each method: mean over seeds, bootstrap over prompts and seeds."""
    return [
        row for view in study.views for m in study.methods for row in _method_rows(study, view, m)
    ]


def difference_rows(study: Study) -> list[Row]:
    """Return each method's paired difference to base and to GRPO, where those are in the study."""
    return [
        row
        for view in study.views
        for baseline in filter(None, map(study.method, BASELINES))
        for method in study.methods
        if method.method not in ("base", baseline.method)
        for row in _difference_rows(study, view, method, baseline)
    ]


def tradeoff_table(study: Study) -> Row:
    """Return pass@1 against pass@k of the methods, with Pareto front and knee."""
    found, estimates, at = _tradeoff(study, 1, study.headline_k)
    points = [
        {**_method_fields(study.overall, method), **_point(point, at), **front}
        for method, point, front in zip(study.methods, estimates, _fronts(found), strict=True)
    ]
    knee = None if found.knee is None else study.methods[found.knee].label
    table = {"k": study.headline_k, "rule": RULE, "knee": knee, "knee_share": found.share}
    return {**table, "points": points}


def tradeoff_rows(study: Study, low_k: int, high_k: int) -> list[Row]:
    """Return a row for each method: pass@k at two k with intervals, front and knee.

    `knee` marks the method that is the knee, `knee_share` its share of the resamples, which is
    also given where it is too small for a knee to be named; `rule` says when one is.
    """
    found, estimates, at = _tradeoff(study, low_k, high_k)
    farthest = farthest_from_chord(np.array([estimate.value_K[at] for estimate in estimates]))
    return [
        {
            "low_k": low_k,
            "high_k": high_k,
            **{name: _method_fields(study.overall, method)[name] for name in ("label", "seeds")},
            **_point(point, at, ("at_low_k", "at_high_k")),
            **front,
            "knee": index == found.knee,
            "knee_share": found.share if index == farthest else None,
            "rule": RULE,
        }
        for index, (method, point, front) in enumerate(
            zip(study.methods, estimates, _fronts(found), strict=True)
        )
    ]


def unique_rows(study: Study) -> list[Row]:
    """Return distinct answers, solutions and trees per prompt, rarefied to the study's least n."""
    return [_unique_row(study, policy, view) for policy in study.policies for view in study.views]


def transition_rows(study: Study) -> list[Row]:
    """Return for each trained policy which prompts it solves that base did not, and conversely."""
    base = [policy for policy in study.policies if policy.identity.method == "base"]
    trained = [policy for policy in study.policies if policy.identity.method != "base"]
    names = ["all", *dict.fromkeys(study.benchmarks_P.tolist())]
    return [_transition_row(base[0], policy, name) for policy in trained if base for name in names]


def dynamics_rows(runs: Sequence[tuple[Identity, TrainingRecord]]) -> list[Row]:
    """Return one series for each policy and metric, in order of steps."""
    return [
        {
            **identity_fields(identity),
            "metric": metric,
            "steps": sorted(values),
            "values": [values[step] for step in sorted(values)],
        }
        for identity, record in runs
        for metric, values in sorted(record.metrics.items())
    ]


def advantage_shape_rows(runs: Sequence[tuple[Identity, TrainingRecord]]) -> list[Row]:
    """Return the advantage histograms that the runs stored, one row for each policy and step."""
    return [
        {**data, **identity_fields(identity), "step": step}
        for identity, record in runs
        for step, data in sorted(record.tables.get("advantage_shape", {}).items())
    ]


def diagnosis_rows(study: Study, runs: Sequence[tuple[Identity, TrainingRecord]]) -> list[Row]:
    """Return the failure signatures of each run, compared with the study's base where there is one.

    Nothing can be said of the base itself.
    """
    counts = {policy.identity: counts_of(policy) for policy in study.policies}
    base = next((c for identity, c in counts.items() if identity.method == "base"), None)
    drawing = {"resamples": study.resamples, "seed": study.seed}
    return [
        {**identity_fields(identity), **finding._asdict()}
        for identity, record in runs
        for finding in diagnose(record, counts[identity], base, **drawing)
    ]


def estimate(study: Study, view: View, method: Method) -> Estimate:
    """Return a method's pass@k over a view's prompts, for every k of the study."""
    return method_estimate(
        list(method.passk_SPK[:, view.chosen_P]),
        study.benchmarks_P[view.chosen_P],
        resamples=study.resamples,
        seed=study.seed,
    )


def identity_fields(identity: Identity) -> Row:
    """Return the columns that say whose row it is."""
    return {**identity._asdict(), "label": identity.label}


def _method_fields(view: View, *methods: Method) -> Row:
    return {
        "method": methods[0].method,
        "risk_beta": methods[0].risk_beta,
        "label": methods[0].label,
        "n_samples": min(int(method.n_P[view.chosen_P].min()) for method in methods),
        "n_prompts": int(view.chosen_P.sum()),
        "seeds": methods[0].seeds,
    }


def _method_rows(study: Study, view: View, method: Method) -> list[Row]:
    fields = {**_method_fields(view, method), "benchmark": view.name}
    return [
        {**fields, "k": k, "pass_at_k": float(value), "low": float(low), "high": float(high)}
        for k, value, low, high in zip(study.ks, *estimate(study, view, method), strict=True)
        if not math.isnan(value)
    ]


def _difference_rows(study: Study, view: View, method: Method, baseline: Method) -> list[Row]:
    chosen = view.chosen_P
    found = paired_difference(
        list(method.passk_SPK[:, chosen]),
        list(baseline.passk_SPK[:, chosen]),
        study.benchmarks_P[chosen],
        resamples=study.resamples,
        seed=study.seed,
    )
    fields = _method_fields(view, method, baseline)
    fields.update(baseline=baseline.method, benchmark=view.name)
    return [
        {**fields, "k": k, "difference": float(value), "low": float(low), "high": float(high)}
        for k, value, low, high in zip(study.ks, *found[:3], strict=True)
        if not math.isnan(value)
    ]


def _tradeoff(study: Study, low_k: int, high_k: int) -> tuple[Tradeoff, list[Estimate], list[int]]:
    at = [study.ks.index(low_k), study.ks.index(high_k)]
    estimates = [estimate(study, study.overall, method) for method in study.methods]
    points_M2 = np.array([found.value_K[at] for found in estimates])
    resampled = resampled_methods(
        [method.passk_SPK for method in study.methods],
        study.benchmarks_P,
        resamples=study.resamples,
        seed=study.seed,
    )
    points_RM2 = np.stack([values_RK[:, at] for values_RK in resampled], axis=1)
    return tradeoff(points_M2, points_RM2), estimates, at


def _fronts(found: Tradeoff) -> list[Row]:
    return [
        {"on_front": bool(on_front), "front_share": float(share)}
        for on_front, share in zip(found.on_front_M, found.front_share_M, strict=True)
    ]


def _point(
    found: Estimate, at: Sequence[int], names: Sequence[str] = ("pass_at_1", "pass_at_k")
) -> Row:
    return {
        f"{name}{bound}": float(values_K[column])
        for name, column in zip(names, at, strict=True)
        for bound, values_K in zip(("", "_low", "_high"), found, strict=True)
    }


def _unique_row(study: Study, policy: PolicyScore, view: View) -> Row:
    prompts = [policy.prompts[index] for index in np.flatnonzero(view.chosen_P)]
    weights_P = mean_weights([prompt.benchmark for prompt in prompts])
    columns = _unique_columns(prompts, study.n_samples)
    return {
        **identity_fields(policy.identity),
        "benchmark": view.name,
        "n_samples": study.n_samples,
        "n_prompts": len(prompts),
        **{name: None if c is None else float(weights_P @ c) for name, c in columns.items()},
        "per_prompt_trees": columns["unique_trees"],
        "per_prompt_n_trees": columns["n_trees"],
    }


def _unique_columns(prompts: Sequence[PromptScore], to: int) -> dict[str, list[float] | None]:
    return {
        "unique_answers": [rarefied(p.answer_counts, p.n, to) for p in prompts],
        "unique_solutions": [rarefied(p.solution_counts, p.n, to) for p in prompts],
        "unique_trees": _unless_none(
            [None if p.tree_counts is None else rarefied(p.tree_counts, p.n, to) for p in prompts]
        ),
        "n_solutions": _unless_none([p.n_solutions for p in prompts]),
        "n_trees": _unless_none([p.n_trees for p in prompts]),
    }


def _unless_none(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _transition_row(before: PolicyScore, after: PolicyScore, name: str) -> Row:
    pairs = [
        (b.correct_samples, a.correct_samples)
        for b, a in zip(before.prompts, after.prompts, strict=True)
        if name in ("all", b.benchmark)
    ]
    found = transitions([b for b, _ in pairs], [a for _, a in pairs])
    fields = found._asdict()
    solved, lost = fields.pop("newly_solved"), fields.pop("newly_lost")
    return {
        **identity_fields(after.identity),
        "before": before.identity.policy,
        "benchmark": name,
        "n_prompts": len(pairs),
        **fields,
        "newly_solved_share": solved.value,
        "newly_solved_low": solved.low,
        "newly_solved_high": solved.high,
        "newly_lost_share": lost.value,
        "newly_lost_low": lost.low,
        "newly_lost_high": lost.high,
    }
