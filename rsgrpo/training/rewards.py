"""The default training reward: the grader of the evaluation, asked once for each batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rsgrpo.config import GradingConfig
from rsgrpo.grading.grade import grade
from rsgrpo.grading.pool import GradingPool
from rsgrpo.records import Answer
from rsgrpo.training.named_rewards import Reward, completion_text


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
        texts = map(completion_text, completions)
        rows = [
            Answer("", text, gold, index, completed, not ids or ids[-1] not in ends)
            for index, (text, gold, completed, ids) in enumerate(
                zip(problem, answer, texts, completion_ids, strict=True)
            )
        ]
        verdicts = grade(rows, grading, pool)
        counts = Counter(verdict.verdict for verdict in verdicts)
        for fault in ("timeout", "error"):
            if log_metric:
                log_metric(f"grading/{fault}_share", counts[fault] / len(rows))
        return [float(verdict.correct) for verdict in verdicts]

    return verified
