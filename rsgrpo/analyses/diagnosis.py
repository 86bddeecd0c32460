"""Does a run show one of the failures that the paper describes?

Each signature is a measured number with a 95% interval and a threshold. The answer is `yes` where
the whole interval lies beyond the threshold, `no` where the number does not, and `unknown` where
the number does and its interval does not, or where data are missing: the evidence says which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rsgrpo.analyses.dynamics import TrainingRecord
from rsgrpo.analyses.overtaking import Counts, overtaking
from rsgrpo.analyses.transitions import wilson

Array = npt.NDArray[np.float64]

MIN_STEPS = 10
COLLAPSED = 0.2
MAX_SPIKE = 10.0
SPIKE_WINDOW = 20
MIN_SPIKE_HISTORY = 5
MAX_BAD_SHARE = 0.05
LARGEST_HALF = 65504.0  # beyond it an advantage is infinite in float16
WATCHED = ("loss", "grad_norm", "mean_abs_advantage", "entropy")

ENTROPY_RULE = (
    f"mean policy entropy of the last fifth of the steps (at least {MIN_STEPS // 2}) below "
    f"{COLLAPSED:.0%} of that of the first fifth, and no step of the last fifth above it; moving-"
    "block bootstrap over steps"
)
GRADIENT_RULE = (
    f"any loss, gradient norm, advantage or entropy that is not finite, any mean |advantage| above "
    f"{LARGEST_HALF:g} (float16), or more than {MAX_BAD_SHARE:.0%} of the steps with a gradient "
    f"norm above {MAX_SPIKE:g} times the median of up to {SPIKE_WINDOW} steps before (at least "
    f"{MIN_STEPS} steps); Wilson interval of the share of such steps"
)
OVERTAKE_RULE = (
    "the policy is above its base at k=1 and below it at the high k, each by a paired bootstrap "
    "over prompts; the interval is that of pass@k at the high k, policy minus base"
)
NEXT_STEPS = {
    "entropy_collapse": "train again with a lower learning rate or a larger risk_beta, and stop "
    "before the step named",
    "gradient_instability": "train again with a lower learning rate or max_grad_norm, in float32, "
    "and look at the rewards of the first step named",
    "base_overtakes": "train with a larger risk_beta or fewer steps and compare pass@k again",
}
UNKNOWN_STEPS = {
    "entropy_collapse": "train for more steps and diagnose again",
    "gradient_instability": "train for more steps and diagnose again",
    "base_overtakes": "evaluate policy and base on the same prompts with more samples, and name "
    "both where they are no part of a study (--graded, --base)",
}
NOTHING_TO_DO = "none needed"


class Finding(NamedTuple):
    """One signature: `found` is yes, no or unknown; `value` is measured, with its 95% interval.

    `evidence` gives the numbers in words, `next_step` one sentence on what to do. Bounds are NaN
    where there is nothing to measure.
    """

    signature: str
    found: str
    value: float
    low: float
    high: float
    evidence: str
    next_step: str
    rule: str


def diagnose(
    record: TrainingRecord | None,
    policy: Counts | None = None,
    base: Counts | None = None,
    *,
    high_k: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Finding]:
    """Return one finding for each signature.

    Args:
        record: What the run logged; None where there is no log.
        policy: The trained policy's `{(benchmark, problem id): (correct, samples)}`; None where it
            was not evaluated.
        base: The same for the policy that training began with.
        high_k: Where the base is looked for above the policy; None: a quarter of the samples.
        resamples: Bootstrap draws.
        seed: Seed of the draws.
    """
    metrics = record.metrics if record else {}
    return [
        entropy_collapse(metrics.get("entropy", {}), resamples=resamples, seed=seed),
        gradient_instability(metrics, record.status if record else None),
        _base_overtakes(policy, base, high_k, resamples, seed),
    ]


def entropy_collapse(
    entropy: Mapping[int, float], *, resamples: int = 2000, seed: int = 0
) -> Finding:
    """Return whether the policy's entropy fell to a fraction of its start and stayed there.

    Args:
        entropy: Mean entropy of the policy's tokens in nats at each step.
        resamples: Bootstrap draws.
        seed: Seed of the draws.
    """
    name = "entropy_collapse"
    steps = [step for step in sorted(entropy) if math.isfinite(entropy[step])]
    if len(steps) < MIN_STEPS:
        reason = f"{len(steps)} steps with an entropy, {MIN_STEPS} are needed"
        return _finding(name, "unknown", (math.nan,) * 3, reason, ENTROPY_RULE)
    values_T = np.array([entropy[step] for step in steps])
    window = max(MIN_STEPS // 2, len(steps) // 5)
    first, last = values_T[:window], values_T[-window:]
    if first.mean() <= 0:
        reason = f"entropy {first.mean():.3g} at the start: there is nothing to fall from"
        return _finding(name, "unknown", (math.nan,) * 3, reason, ENTROPY_RULE)
    low, high = _ratio_interval(first, last, resamples, seed)
    ratio = float(last.mean() / first.mean())
    threshold = COLLAPSED * first.mean()
    found = _verdict(-ratio, -high, -COLLAPSED)
    if found == "yes" and last.max() >= threshold:
        found = "unknown"
    below = values_T >= threshold
    since = "never below it" if below[-1] else f"below it since step {_since(steps, below)}"
    words = (
        f"entropy {first.mean():.3g} in steps {steps[0]}-{steps[window - 1]}, {last.mean():.3g} in "
        f"steps {steps[-window]}-{steps[-1]}; threshold {threshold:.3g}, {since}"
    )
    return _finding(name, found, (ratio, low, high), words, ENTROPY_RULE)


def gradient_instability(
    metrics: Mapping[str, Mapping[int, float]], status: str | None = None
) -> Finding:
    """Return whether gradients or advantages overflowed, or gradients jumped again and again.

    Args:
        metrics: Each metric's value by step: `grad_norm` and, where logged, the others of
            `WATCHED`.
        status: How the run ended: FINISHED, FAILED, KILLED; None where it did not.
    """
    name = "gradient_instability"
    norms = metrics.get("grad_norm", {})
    overflows = {
        metric: [step for step, value in sorted(metrics.get(metric, {}).items()) if bad(value)]
        for metric, bad in _OVERFLOWS.items()
    }
    spikes = spike_steps(norms)
    overflowed = {step for steps in overflows.values() for step in steps}
    if not overflowed and len(norms) < MIN_STEPS:
        reason = f"{len(norms)} steps with a gradient norm, {MIN_STEPS} are needed"
        return _finding(name, "unknown", (math.nan,) * 3, reason, GRADIENT_RULE)
    logged = {step for metric in WATCHED for step in metrics.get(metric, {})}
    share = wilson(len(overflowed | set(spikes)), len(logged))
    found = "yes" if overflowed else _verdict(share.value, share.low, MAX_BAD_SHARE)
    parts = [_first(f"{metric} overflowed", steps) for metric, steps in overflows.items() if steps]
    parts.append(_first("gradient norm jumped", spikes) if spikes else "no jump")
    finite = [value for value in norms.values() if math.isfinite(value)]
    largest = f"{max(finite):.3g}" if finite else "none finite"
    ended = f", run ended {status}" if status not in (None, "FINISHED") else ""
    words = f"{'; '.join(parts)}; largest gradient norm {largest} in {len(logged)} steps{ended}"
    return _finding(name, found, share, words, GRADIENT_RULE)


def spike_steps(norms: Mapping[int, float]) -> list[int]:
    """Return the steps whose gradient norm is far above the median of those before.

    Steps without a gradient (norm 0: every group was silent) and norms that are not finite are no
    part of the median; it needs `MIN_SPIKE_HISTORY` steps.
    """
    before: list[float] = []
    spikes = []
    for step in sorted(norms):
        norm = norms[step]
        if not math.isfinite(norm) or norm <= 0:
            continue
        enough = len(before) >= MIN_SPIKE_HISTORY
        if enough and norm > MAX_SPIKE * float(np.median(before[-SPIKE_WINDOW:])):
            spikes.append(step)
        before.append(norm)
    return spikes


def _base_overtakes(
    policy: Counts | None,
    base: Counts | None,
    high_k: int | None,
    resamples: int,
    seed: int,
) -> Finding:
    name = "base_overtakes"
    missing = [who for who, counts in (("policy", policy), ("base", base)) if counts is None]
    if policy is None or base is None:
        reason = f"no evaluation of the {' and of the '.join(missing)}"
        return _finding(name, "unknown", (math.nan,) * 3, reason, OVERTAKE_RULE)
    found = overtaking(policy, base, high_k=high_k, resamples=resamples, seed=seed)
    bounds = (found.at_high, found.low, found.high)
    return _finding(name, found.found, bounds, found.evidence, OVERTAKE_RULE)


def _verdict(value: float, low: float, threshold: float) -> str:
    """Return yes where value and interval are above the threshold, no where the value is not."""
    if value <= threshold:
        return "no"
    return "yes" if low > threshold else "unknown"


def _not_finite(value: float) -> bool:
    return not math.isfinite(value)


def _beyond_half(value: float) -> bool:
    return not abs(value) <= LARGEST_HALF


_OVERFLOWS = {
    metric: _beyond_half if metric == "mean_abs_advantage" else _not_finite for metric in WATCHED
}


def _finding(
    signature: str, found: str, bounds: tuple[float, ...], evidence: str, rule: str
) -> Finding:
    steps = {"yes": NEXT_STEPS, "unknown": UNKNOWN_STEPS}.get(found, {})
    step = steps.get(signature, NOTHING_TO_DO)
    value, low, high = map(float, bounds)
    return Finding(signature, found, value, low, high, evidence, step, rule)


def _first(what: str, steps: list[int]) -> str:
    return f"{what} in {len(steps)} steps, first in step {steps[0]}"


def _since(steps: list[int], above_T: npt.NDArray[np.bool_]) -> int:
    """Return the first step after the last one that was above."""
    above = np.flatnonzero(above_T)
    return steps[int(above[-1]) + 1] if len(above) else steps[0]


def _ratio_interval(first: Array, last: Array, resamples: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    # A start that is 0 in part may be drawn as 0 throughout: there is no bound then.
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios_R = _block_means(last, resamples, rng) / _block_means(first, resamples, rng)
    low, high = np.quantile(ratios_R, (0.025, 0.975))
    return float(low), float(high)


def _block_means(values_T: Array, resamples: int, rng: np.random.Generator) -> Array:
    """Return the means of moving-block resamples, whose blocks keep neighbouring steps together.

    Blocks are of about the cube root of the length (Kuensch, Annals of Statistics 1989).
    """
    length = len(values_T)
    block = max(1, round(length ** (1 / 3)))
    starts = rng.integers(0, length - block + 1, (resamples, -(-length // block)))
    index = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)[:, :length]
    return np.asarray(values_T[index].mean(axis=1), dtype=np.float64)
