"""A study in one sentence, written from its numbers, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rsgrpo.analyses.study import Method, Study
from rsgrpo.analyses.tables import estimate
from rsgrpo.evaluation.compare import paired_difference

_SPOKEN = {"base": "the base policy", "grpo": "GRPO", "dr_grpo": "Dr. GRPO"}


class Figure(NamedTuple):
    """One number with its 95% interval."""

    value: float
    low: float
    high: float


class Change(NamedTuple):
    """A difference between two methods, its 95% interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


class Headline(NamedTuple):
    """What the study says of one method.

    `over` and `pass_at_1_over` hold the paired difference to each baseline in the study, by its
    method (`grpo`, `base`), at k and at 1.
    """

    label: str
    method: str
    risk_beta: float | None
    k: int
    n_samples: int
    n_prompts: int
    n_benchmarks: int
    seeds: list[int]
    pass_at_k: Figure
    pass_at_1: Figure
    over: dict[str, Change]
    pass_at_1_over: dict[str, Change]


def headline(study: Study, headline_beta: float) -> Headline:
    """Return the headline: RS-GRPO against GRPO and base, at the study's headline k and at 1.

    Args:
        study: The study. Without a run at `headline_beta` the RS-GRPO run nearest to it speaks;
            without RS-GRPO the last method does: GRPO, or the base policy.
        headline_beta: The risk parameter to report.
    """
    subject = _subject(study, headline_beta)
    baselines = _baselines(study, subject)
    compared = [subject, *baselines.values()]
    at_k, at_1 = study.ks.index(study.headline_k), study.ks.index(1)
    found = estimate(study, study.overall, subject)
    return Headline(
        label=subject.label,
        method=subject.method,
        risk_beta=subject.risk_beta,
        k=study.headline_k,
        n_samples=min(int(method.n_P.min()) for method in compared),
        n_prompts=len(study.benchmarks_P),
        n_benchmarks=len(set(study.benchmarks_P.tolist())),
        seeds=subject.seeds,
        pass_at_k=Figure(*(float(values_K[at_k]) for values_K in found)),
        pass_at_1=Figure(*(float(values_K[at_1]) for values_K in found)),
        over={name: _change(study, subject, m, at_k) for name, m in baselines.items()},
        pass_at_1_over={name: _change(study, subject, m, at_1) for name, m in baselines.items()},
    )


def headline_table(found: Headline) -> dict[str, Any]:
    """Return a headline as plain dicts; a baseline that is not in the study is None."""
    return {
        **found._asdict(),
        "pass_at_k": found.pass_at_k._asdict(),
        "pass_at_1": found.pass_at_1._asdict(),
        "over": {name: _plain(found.over.get(name)) for name in ("grpo", "base")},
        "pass_at_1_over": {
            name: _plain(found.pass_at_1_over.get(name)) for name in ("grpo", "base")
        },
    }


def sentence(found: Headline, problems: str = "held-out problems") -> str:
    """Return the headline in words, e.g. "RS-GRPO (beta 4) solves 87.5% of held-out problems ...".

    A difference whose interval holds 0 is called no clear difference, whatever its sign.

    Args:
        found: The headline.
        problems: What the prompts are, in the plural.
    """
    opening = f"{_spoken(found.method, found.risk_beta)} solves {_percent(found.pass_at_k.value)}"
    opening = opening[0].upper() + opening[1:]
    attempts = "1 attempt" if found.k == 1 else f"{found.k} attempts"
    if not found.over:
        bounds = f"[{100 * found.pass_at_k.low:.1f}, {100 * found.pass_at_k.high:.1f}]"
        return f"{opening} {bounds} of {problems} within {attempts} ({_evidence(found)})."
    changes = " and ".join(_phrase(change, name) for name, change in found.over.items())
    cost = _cost(found)
    return f"{opening} of {problems} within {attempts}, {changes}{cost} ({_evidence(found)})."


def _subject(study: Study, headline_beta: float) -> Method:
    risk_sensitive = [m for m in study.methods if m.risk_beta is not None]
    if not risk_sensitive:
        return study.methods[-1]
    return min(risk_sensitive, key=lambda method: abs((method.risk_beta or 0.0) - headline_beta))


def _baselines(study: Study, subject: Method) -> dict[str, Method]:
    found = {name: study.method(name) for name in ("grpo", "base")}
    return {name: m for name, m in found.items() if m and name != subject.method}


def _change(study: Study, subject: Method, baseline: Method, at: int) -> Change:
    found = paired_difference(
        list(subject.passk_SPK),
        list(baseline.passk_SPK),
        study.benchmarks_P,
        resamples=study.resamples,
        seed=study.seed,
    )
    return Change(*(float(values_K[at]) for values_K in found))


def _plain(change: Change | None) -> dict[str, float] | None:
    return change._asdict() if change else None


def _spoken(method: str, risk_beta: float | None) -> str:
    if method == "rs_grpo":
        return "RS-GRPO" if risk_beta is None else f"RS-GRPO (beta {risk_beta:g})"
    return _SPOKEN.get(method, method)


def _phrase(change: Change, baseline: str, of: str = "") -> str:
    points = f"{_points(change.difference)} points [{_points(change.low)}, {_points(change.high)}]"
    other = _SPOKEN[baseline]
    if change.low <= 0 <= change.high:
        return f"no clear difference{of} from {other} ({points})"
    return f"{points}{of} {'over' if change.difference > 0 else 'against'} {other}"


def _cost(found: Headline) -> str:
    if found.k == 1:
        return ""
    name, change = next(iter(found.pass_at_1_over.items()))
    return f"; its pass@1 is {_percent(found.pass_at_1.value)}, {_phrase(change, name)}"


def _evidence(found: Headline) -> str:
    size = f"{found.n_prompts} prompts x {found.n_samples} samples"
    benchmarks = f", uniform mean of {found.n_benchmarks} benchmarks"
    parts = size + (benchmarks if found.n_benchmarks > 1 else "")
    if not found.over:
        return f"{parts}, 95% bootstrap over prompts"
    over = "prompts and seeds" if len(found.seeds) > 1 else "prompts"
    return f"{parts}, {_seeds(found.seeds)}, 95% paired bootstrap over {over}"


def _seeds(seeds: Sequence[int]) -> str:
    word = "seed" if len(seeds) == 1 else "seeds"
    return f"{word} {', '.join(map(str, seeds))}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
