"""A synthetic study with the shape of the demo: six tiers, base, GRPO and four betas, two seeds."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

TIERS = ("T1", "T2", "T3", "T4", "T5", "T6")
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PROMPTS, SAMPLES, STEPS, GROUP = 40, 256, 100, 16
Row = dict[str, Any]


class Policy(NamedTuple):
    """One method, with how well it knows easy prompts and how widely it looks."""

    method: str
    risk_beta: float | None
    label: str
    skill: float
    spread: float


POLICIES = (
    Policy("base", None, "base", -0.6, 1.0),
    Policy("grpo", None, "GRPO", 0.3, 0.45),
    Policy("rs_grpo", 0.0, "RS-GRPO β=0", 0.3, 0.4),
    Policy("rs_grpo", 2.0, "RS-GRPO β=2", 0.1, 1.2),
    Policy("rs_grpo", 4.0, "RS-GRPO β=4", 0.0, 1.8),
    Policy("rs_grpo", 8.0, "RS-GRPO β=8", -0.1, 2.0),
)


@pytest.fixture(scope="session")
def study_tables() -> dict[str, Any]:
    """Return the tables of the synthetic study; the same at every call."""
    return make_tables(np.random.default_rng(0))


def make_tables(rng: np.random.Generator) -> dict[str, Any]:
    """Return tables as the analyse stage writes them."""
    ease = np.concatenate([rng.normal(2.5 - 1.4 * tier, 1.2, PROMPTS) for tier in range(6)])
    solutions = rng.integers(1, 8, ease.size)
    trained = [p for p in POLICIES if p.method != "base"]
    counts = {p: [_counts(rng, p, ease) for _ in seeds_of(p)] for p in POLICIES}
    means = {p: np.mean([_passk(c) for c in counts[p]], axis=0) for p in POLICIES}
    methods = [row for p in POLICIES for row in _methods(rng, p, means[p])]
    return {
        "study": {
            "name": "demo",
            "split": "development",
            "ks": list(KS),
            "headline_k": 64,
            "headline_beta": 4.0,
            "resamples": 2000,
            "level": 0.95,
            "seeds": [0, 1],
            "n_samples": SAMPLES,
            "n_prompts": 6 * PROMPTS,
            "benchmarks": list(TIERS),
        },
        "passk": [],
        "methods": methods,
        "differences": [
            row
            for p in trained
            for q in POLICIES[:2]
            if p != q
            for row in _differences(rng, p, q, means)
        ],
        "tradeoff": _tradeoff(methods),
        "dynamics": [row for p in trained for seed in (0, 1) for row in _dynamics(rng, p, seed)],
        "advantage_shape": [
            _shape(rng, p, seed, step) for p in trained for seed in (0, 1) for step in (10, 20)
        ],
        "unique": [
            row
            for p in POLICIES
            for seed, c in zip(seeds_of(p), counts[p], strict=True)
            for row in _unique(rng, p, seed, c, solutions)
        ],
        "transitions": [
            _transition(p, seed, counts[POLICIES[0]][0], c)
            for p in trained
            for seed, c in zip((0, 1), counts[p], strict=True)
        ],
    }


def seeds_of(policy: Policy) -> tuple[int, ...]:
    """Return the seeds of a policy: the base has one."""
    return (0,) if policy.method == "base" else (0, 1)


def _counts(rng: np.random.Generator, policy: Policy, ease: np.ndarray) -> np.ndarray:
    logits = np.where(ease > 0, ease + policy.skill, ease / policy.spread * 1.6 - 1.0)
    return rng.binomial(SAMPLES, 1 / (1 + np.exp(-logits - rng.normal(0, 0.4, ease.size))))


def _passk(counts: np.ndarray) -> np.ndarray:
    per_prompt = [
        [1 - math.comb(SAMPLES - int(c), k) / math.comb(SAMPLES, k) for k in KS] for c in counts
    ]
    return np.array(per_prompt)


def _identity(policy: Policy, seed: int) -> Row:
    name = "base" if policy.method == "base" else f"{policy.label}-seed{seed}"
    return {"policy": name, **_method(policy), "seed": seed}


def _method(policy: Policy) -> Row:
    return {"method": policy.method, "risk_beta": policy.risk_beta, "label": policy.label}


def _bounds(rng: np.random.Generator, values_PK: np.ndarray) -> np.ndarray:
    draws = rng.integers(0, len(values_PK), (200, len(values_PK)))
    return np.quantile(values_PK[draws].mean(1), (0.025, 0.975), axis=0)


def _by_benchmark(values_PK: np.ndarray) -> list[tuple[str, np.ndarray]]:
    parts = [values_PK[i * PROMPTS : (i + 1) * PROMPTS] for i in range(6)]
    return [*zip(TIERS, parts, strict=True), ("mean", values_PK)]


def _methods(rng: np.random.Generator, policy: Policy, passk_PK: np.ndarray) -> list[Row]:
    return [
        {**_method(policy), "benchmark": name, "k": k, "pass_at_k": v, "low": lo, "high": hi}
        | {"n_samples": SAMPLES, "n_prompts": len(part), "seeds": list(seeds_of(policy))}
        for name, part in _by_benchmark(passk_PK)
        for k, v, lo, hi in zip(
            KS, part.mean(0).tolist(), *_bounds(rng, part).tolist(), strict=True
        )
    ]


def _differences(
    rng: np.random.Generator, policy: Policy, against: Policy, means: dict[Policy, np.ndarray]
) -> list[Row]:
    rows = _methods(rng, policy, means[policy] - means[against])
    return [
        {**{k: v for k, v in row.items() if k != "pass_at_k"}, "baseline": against.method}
        | {"difference": row["pass_at_k"]}
        for row in rows
    ]


def _tradeoff(methods: list[Row]) -> Row:
    points = []
    for policy in POLICIES:
        at = {
            row["k"]: row
            for row in methods
            if row["label"] == policy.label and row["benchmark"] == "mean"
        }
        point = {**_method(policy), "n_samples": SAMPLES, "n_prompts": 240, "seeds": [0, 1]}
        for axis, k in (("1", 1), ("k", 64)):
            point |= {
                f"pass_at_{axis}": at[k]["pass_at_k"],
                f"pass_at_{axis}_low": at[k]["low"],
                f"pass_at_{axis}_high": at[k]["high"],
            }
        points.append(point)
    for point in points:
        point["on_front"] = not any(
            other["pass_at_1"] > point["pass_at_1"] and other["pass_at_k"] > point["pass_at_k"]
            for other in points
        )
    rule = "the point of the front farthest from the line between its ends, both axes scaled to 1"
    return {"k": 64, "rule": rule, "knee": "RS-GRPO β=4", "knee_share": 0.81, "points": points}


def _dynamics(rng: np.random.Generator, policy: Policy, seed: int) -> list[Row]:
    beta = policy.risk_beta or 0.0
    t = np.linspace(0, 1, STEPS)
    shapes = {
        "reward": 0.25 + 0.2 * (1 - np.exp(-4 * t)) - 0.004 * beta,
        "entropy": 0.21 - (0.07 - 0.008 * beta) * t,
        "frac_all_fail": 0.45 - 0.1 * t - 0.01 * beta * t,
        "frac_all_pass": 0.08 + 0.12 * t,
        "grad_norm": 0.6 + 0.05 * beta + 0.1 * t,
        "mean_abs_advantage": np.full(STEPS, 0.3 / (1 + 0.2 * beta)),
    }
    return [
        {**_identity(policy, seed), "metric": name, "steps": list(range(1, STEPS + 1))}
        | {"values": (shape * rng.normal(1, 0.06, STEPS)).tolist()}
        for name, shape in shapes.items()
    ]


def _shape(rng: np.random.Generator, policy: Policy, seed: int, step: int) -> Row:
    groups = rng.multinomial(480, [0.4, *([0.5 / 15] * 15), 0.1]).tolist()
    beta = policy.risk_beta or 0.0
    edges = np.linspace(-4, 4, 41)
    row = {**_identity(policy, seed), "step": step, "correct": list(range(GROUP + 1))}
    totals: dict[str, list[float]] = {"standard": [], "risk_sensitive": []}
    histograms: dict[str, list[list[int]]] = {"standard": [], "risk_sensitive": []}
    for c, count in enumerate(groups):
        p = c / GROUP
        for name in totals:
            weight = _weight(p, beta) if name == "risk_sensitive" else _grpo_weight(c)
            totals[name].append(count * 2 * c * (1 - p) * weight)
            values = [(1 - p) * weight] * (c * count) + [-p * weight] * ((GROUP - c) * count)
            histograms[name].append(np.histogram(values, edges)[0].tolist())
    return row | {
        "groups": groups,
        "standard_total": totals["standard"],
        "risk_sensitive_total": totals["risk_sensitive"],
        "standard_histogram": {
            "edges": edges.tolist(),
            "counts_by_accuracy": histograms["standard"],
        },
        "risk_histogram": {
            "edges": edges.tolist(),
            "counts_by_accuracy": histograms["risk_sensitive"],
        },
    }


def _weight(p: float, beta: float) -> float:
    grown = math.expm1(beta)
    return grown / (beta * (1 + p * grown)) if beta else 1.0


def _grpo_weight(c: int) -> float:
    spread = c * (GROUP - c) / GROUP / (GROUP - 1)
    return 1 / (math.sqrt(spread) + 1e-4) if spread else 0.0


def _unique(
    rng: np.random.Generator, policy: Policy, seed: int, counts: np.ndarray, there: np.ndarray
) -> list[Row]:
    found = np.minimum(rng.binomial(there, np.minimum(0.35 * policy.spread, 0.97)), counts)
    rows = []
    for name, part in _by_benchmark(np.stack([found, there], 1)):
        rows.append(
            {**_identity(policy, seed), "benchmark": name, "n_samples": SAMPLES}
            | {"n_prompts": len(part), "unique_answers": 9.0, "n_solutions": 3.0}
            | {"unique_trees": float(part[:, 0].mean()), "n_trees": float(part[:, 1].mean())}
            | {"unique_solutions": 1.5 * float(part[:, 0].mean())}
            | {"per_prompt_trees": part[:, 0].tolist(), "per_prompt_n_trees": part[:, 1].tolist()}
        )
    return rows


def _transition(policy: Policy, seed: int, before: np.ndarray, after: np.ndarray) -> Row:
    names = ("unsolved", "solved")
    cells = {
        f"{names[x]}_{names[y]}": int(((before > 0) == x) @ ((after > 0) == y).astype(int))
        for x in (0, 1)
        for y in (0, 1)
    }
    row = {**_identity(policy, seed), "before": "base", "benchmark": "all", **cells}
    row |= {"n_samples": SAMPLES, "n_prompts": 240}
    row |= {"significantly_gained": 20, "significantly_lost": 3}
    for name, hit, miss in (
        ("newly_solved", cells["unsolved_solved"], cells["unsolved_unsolved"]),
        ("newly_lost", cells["solved_unsolved"], cells["solved_solved"]),
    ):
        keys = (f"{name}_share", f"{name}_low", f"{name}_high")
        row |= dict(zip(keys, _wilson(hit, hit + miss), strict=True))
    return row


def _wilson(hits: int, count: int) -> tuple[float | None, float | None, float | None]:
    if not count:
        return None, None, None
    share, z = hits / count, 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / 2 / count) ** 2)
    return share, middle - half, middle + half
