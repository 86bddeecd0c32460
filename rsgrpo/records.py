"""The rows that walk between rooms.

Shape suffixes used everywhere: `_P` prompts, `_N` samples of a prompt (the group), `_T` tokens,
`_K` values of k, `_B` values of beta, `_S` seeds. So `rewards_PN` holds one reward for each prompt
and sample.
"""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """One prompt with its gold answer."""

    id: str
    problem: str
    answer: str
    source: str = ""


class Sample(NamedTuple):
    """One completion drawn for a problem.

    `truncated` is true where the length limit came before the end token. `logprob` is the sum of
    the natural log-probabilities of its tokens, end token included, under the policy itself (before
    temperature and top-p); `mean_entropy` the mean over its tokens of the entropy in nats of the
    distribution that each was drawn from, likewise before both. None where it is not known.
    """

    problem_id: str
    sample_index: int
    completion: str
    n_tokens: int
    truncated: bool
    logprob: float | None = None
    mean_entropy: float | None = None


class Answer(NamedTuple):
    """One completion with what is needed to grade it."""

    problem_id: str
    problem: str
    answer: str
    sample_index: int
    completion: str
    truncated: bool = False


class Verdict(NamedTuple):
    """The grade of one completion.

    `verdict` is one of `correct`, `incorrect`, `no_answer`, `timeout`, `error`; `correct` is true
    for the first only. `extracted` is the final answer read out of the completion ("" for none).
    """

    extracted: str
    verdict: str
    correct: bool


class PassKRow(NamedTuple):
    """One measured point: pass@k of one policy on one benchmark, in [0, 1].

    `low` and `high` bound the 95% interval of a bootstrap over prompts; the interval over samples
    with the benchmark fixed is in `sampling_low` and `sampling_high`. `method` is `base`, `grpo`
    or `rs_grpo`; `risk_beta` is None except for `rs_grpo`.
    """

    policy: str
    method: str
    risk_beta: float | None
    seed: int
    benchmark: str
    k: int
    pass_at_k: float
    low: float
    high: float
    sampling_low: float
    sampling_high: float
    n_samples: int
    n_prompts: int


class StatisticRow(NamedTuple):
    """One measured point of any of the three metrics, in [0, 1]; intervals as in `PassKRow`.

    `metric` is `pass@k`, `avg@n` (mean accuracy over all samples; k is None) or `maj@k`.
    `benchmark` may be `mean`, over all benchmarks, or say which mean it is: `mean of 5 (without
    math500)`. `n_samples` is the fewest of a prompt.
    """

    metric: str
    benchmark: str
    k: int | None
    value: float
    low: float
    high: float
    sampling_low: float
    sampling_high: float
    n_samples: int
    n_prompts: int
