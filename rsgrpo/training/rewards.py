"""The training reward: the grader of the evaluation, asked once for each batch of completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rsgrpo.config import GradingConfig
from rsgrpo.grading.grade import grade
from rsgrpo.grading.pool import GradingPool
from rsgrpo.records import Answer

Reward = Callable[..., list[float]]


def make_reward(
    grading: GradingConfig, end_tokens: Sequence[int], pool: GradingPool | None = None
) -> Reward:
    """Return a TRL reward function: 1 for a correct completion, 0 for any other.

    Timeouts and errors score 0 and are logged as shares of the batch, never passed over.

    Args:
        grading: The verifier and its limits.
        end_tokens: Token ids that end a completion; one without them is truncated.
        pool: Worker processes for verifiers that need them.
    """
    ends = set(end_tokens)

    def verified(
        completions: list[Any],
        completion_ids: list[list[int]],
        problem: list[str],
        answer: list[str],
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float]:
        rows = [
            Answer("", text, gold, index, _text(completion), not ids or ids[-1] not in ends)
            for index, (text, gold, completion, ids) in enumerate(
                zip(problem, answer, completions, completion_ids, strict=True)
            )
        ]
        verdicts = grade(rows, grading, pool)
        counts = Counter(verdict.verdict for verdict in verdicts)
        for fault in ("timeout", "error"):
            if log_metric:
                log_metric(f"grading/{fault}_share", counts[fault] / len(rows))
        return [float(verdict.correct) for verdict in verdicts]

    return verified


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
