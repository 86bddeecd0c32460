"""Grading with the verifier that the configuration names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rsgrpo.config import GradingConfig
from rsgrpo.grading.pool import GradingPool
from rsgrpo.grading.sheet import Progress
from rsgrpo.records import Answer, Verdict

Verifier = Callable[[Sequence[Answer], GradingPool, Progress | None], list[Verdict]]


def grade(
    answers: Sequence[Answer],
    config: GradingConfig,
    pool: GradingPool | None = None,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Grade answers, in their order.

    Args:
        answers: Completions with their problems and gold answers.
        config: Names the verifier. `math_verify` grades a truncated completion on what it contains;
            `countdown` finds no answer in it.
        pool: The pool for `math_verify`; its own limits count, not those of `config`. Without one,
            a pool is started for this call.
        progress: Called with (rows graded, rows) as the grading goes on.

    Returns:
        One verdict for each answer.

    Raises:
        UserError: The verifier needs a package that is not installed.
    """
    verifier = VERIFIERS[config.verifier]
    if pool:
        return verifier(answers, pool, progress)
    with GradingPool.from_config(config) as own:
        return verifier(answers, own, progress)


def _with_math_verify(
    answers: Sequence[Answer], pool: GradingPool, progress: Progress | None
) -> list[Verdict]:
    return pool.grade(answers, progress)


def _with_countdown(
    answers: Sequence[Answer], pool: GradingPool, progress: Progress | None
) -> list[Verdict]:
    from rsgrpo.data.countdown import grade_chain

    verdicts = [grade_chain(row.problem, row.completion, row.truncated) for row in answers]
    if progress:
        progress(len(verdicts), len(answers))
    return verdicts


VERIFIERS: dict[str, Verifier] = {
    "math_verify": _with_math_verify,
    "countdown": _with_countdown,
}
