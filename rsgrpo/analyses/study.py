"""The scores of a whole study, side by side: policies, and methods with their seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsgrpo.errors import UserError
from rsgrpo.evaluation.passk import pass_at_k
from rsgrpo.evaluation.prompts import PromptScore
from rsgrpo.evaluation.resampling import Array, benchmark_views


class Identity(NamedTuple):
    """Who a policy is: its name, the method that trained it, its risk parameter and RL seed."""

    policy: str
    method: str
    risk_beta: float | None
    seed: int

    @property
    def label(self) -> str:
        """The name of the method that a figure shows."""
        return method_label(self.method, self.risk_beta)


class PolicyScore(NamedTuple):
    """One policy's identity, its pass@k rows and its prompts."""

    identity: Identity
    rows: list[dict[str, Any]]
    prompts: list[PromptScore]


class Method(NamedTuple):
    """One method over its seeds: passk_SPK, and n_P, the fewest samples of each prompt."""

    method: str
    risk_beta: float | None
    label: str
    seeds: list[int]
    passk_SPK: Array
    n_P: npt.NDArray[np.int64]


class View(NamedTuple):
    """The prompts of one benchmark, or of all of them under the name "mean"."""

    name: str
    chosen_P: npt.NDArray[np.bool_]


class Study(NamedTuple):
    """Every policy scored on the same prompts in the same order, and how to resample them."""

    policies: list[PolicyScore]
    methods: list[Method]
    benchmarks_P: npt.NDArray[np.str_]
    ks: tuple[int, ...]
    headline_k: int
    resamples: int
    seed: int

    @property
    def views(self) -> list[View]:
        """Each benchmark in order, then "mean" where there are several."""
        return [View(*view) for view in benchmark_views(self.benchmarks_P.tolist())]

    @property
    def overall(self) -> View:
        """The view that sums the study up: "mean", or the only benchmark."""
        return self.views[-1]

    @property
    def n_samples(self) -> int:
        """The fewest samples that any policy drew for a prompt."""
        return min(int(method.n_P.min()) for method in self.methods)

    def method(self, name: str, risk_beta: float | None = None) -> Method | None:
        """Return a method of the study, or None where it is not part of it."""
        found = [m for m in self.methods if (m.method, m.risk_beta) == (name, risk_beta)]
        return found[0] if found else None


def build_study(
    policies: Sequence[PolicyScore],
    *,
    ks: Sequence[int],
    headline_k: int,
    resamples: int,
    seed: int,
) -> Study:
    """Line up the policies' prompts and gather the seeds of each method.

    Args:
        policies: Scores, in any order; sorted into base, GRPO, RS-GRPO by beta.
        ks: The values of k; those above every n are left out.
        headline_k: The k of the trade-off and the headline; where a prompt has fewer samples, the
            largest k that all of them have takes its place.
        resamples: Bootstrap draws.
        seed: Seed of the draws.

    Raises:
        UserError: There is no policy, or two were scored on different prompts.
    """
    if not policies:
        raise UserError("there is no score to analyse: score at least one policy first")
    ordered = _aligned(sorted(policies, key=lambda policy: _rank(policy.identity)))
    prompts = ordered[0].prompts
    samples = [prompt.n for policy in ordered for prompt in policy.prompts]
    kept = tuple(k for k in sorted({1, headline_k, *ks}) if k <= max(samples))
    return Study(
        policies=ordered,
        methods=_methods(ordered, kept),
        benchmarks_P=np.asarray([prompt.benchmark for prompt in prompts], str),
        ks=kept,
        headline_k=max(k for k in kept if k <= min(headline_k, min(samples))),
        resamples=resamples,
        seed=seed,
    )


def method_label(method: str, risk_beta: float | None) -> str:
    """Return a method's name for readers: base, GRPO, RS-GRPO β=4."""
    if method == "rs_grpo":
        return "RS-GRPO" if risk_beta is None else f"RS-GRPO β={risk_beta:g}"
    return {"grpo": "GRPO", "dr_grpo": "Dr. GRPO"}.get(method, method)


def _rank(identity: Identity) -> tuple[int, str, float, int]:
    place = {"base": 0, "grpo": 1}.get(identity.method, 2)
    beta = float("-inf") if identity.risk_beta is None else identity.risk_beta
    return place, identity.method, beta, identity.seed


def _aligned(policies: Sequence[PolicyScore]) -> list[PolicyScore]:
    keys = [(prompt.benchmark, prompt.problem_id) for prompt in policies[0].prompts]
    return [_in_order(policy, keys, policies[0].identity.policy) for policy in policies]


def _in_order(policy: PolicyScore, keys: Sequence[tuple[str, str]], other: str) -> PolicyScore:
    by_key = {(prompt.benchmark, prompt.problem_id): prompt for prompt in policy.prompts}
    if set(by_key) != set(keys):
        raise UserError(
            f"policies {policy.identity.policy} and {other} were scored on different prompts "
            f"({len(by_key)} and {len(keys)}): score both on the same ones"
        )
    return policy._replace(prompts=[by_key[key] for key in keys])


def _methods(policies: Sequence[PolicyScore], ks: Sequence[int]) -> list[Method]:
    names = dict.fromkeys((p.identity.method, p.identity.risk_beta) for p in policies)
    return [
        _method([p for p in policies if (p.identity.method, p.identity.risk_beta) == name], ks)
        for name in names
    ]


def _method(runs: Sequence[PolicyScore], ks: Sequence[int]) -> Method:
    counts = [([p.c for p in run.prompts], [p.n for p in run.prompts]) for run in runs]
    first = runs[0].identity
    return Method(
        method=first.method,
        risk_beta=first.risk_beta,
        label=first.label,
        seeds=[run.identity.seed for run in runs],
        passk_SPK=np.stack([pass_at_k(c_P, n_P, ks) for c_P, n_P in counts]),
        n_P=np.min([n_P for _, n_P in counts], axis=0),
    )
