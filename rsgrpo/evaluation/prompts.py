"""One row for each prompt of a policy: what its samples add up to.

Besides the counts, a row keeps what a fair comparison at another n needs: the verdicts in order of
sampling, and how often each answer, solution and tree came up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple


class GradedSample(NamedTuple):
    """The columns of one graded completion that a score needs."""

    sample_index: int
    completion: str
    extracted: str
    correct: bool


class PromptScore(NamedTuple):
    """What a prompt's n samples add up to.

    `unique_answers` counts distinct answers over all samples, none being one of them: on the
    embedded task by their text, elsewhere the correct ones are one and wrong ones are by spelling,
    as votes are (`rsgrpo analyse unique` also joins what Math-Verify takes for one).
    `unique_solutions` counts distinct completions among the correct ones, to the letter (`analyse
    unique` counts clusters of wording), `unique_trees` their distinct canonical expression trees.
    `n_solutions` and `n_trees` are the true denominators; both and the trees are None for tasks
    that cannot be enumerated. The lists hold one verdict for each sample, in order, and one count
    for each distinct answer, solution and tree, largest first.
    """

    benchmark: str
    problem_id: str
    n: int
    c: int
    unique_answers: int
    unique_solutions: int
    unique_trees: int | None
    n_solutions: int | None
    n_trees: int | None
    correct_samples: list[bool]
    answer_counts: list[int]
    solution_counts: list[int]
    tree_counts: list[int] | None


class ExpressionTask(NamedTuple):
    """What is known of a task whose solutions can be enumerated.

    `canonical_tree` maps a solution's text to its expression tree, `solutions` a problem's text to
    every solution.
    """

    canonical_tree: Callable[[str], str]
    solutions: Callable[[str], list[str]]


def score_prompt(
    benchmark: str,
    problem_id: str,
    problem: str,
    samples: Sequence[GradedSample],
    task: ExpressionTask | None,
) -> PromptScore:
    """Return the row of one prompt.

    Args:
        benchmark: The benchmark the prompt belongs to.
        problem_id: Its identity there.
        problem: Its text, from which `task` enumerates the solutions.
        samples: Its graded completions, in any order.
        task: Canonical trees and denominators; None where there are none.
    """
    in_order = sorted(samples)
    correct = [sample.correct for sample in in_order]
    answers = Counter(sample.extracted for sample in in_order)
    solutions = Counter(sample.completion.strip() for sample in in_order if sample.correct)
    trees = _count_trees(solutions, task) if task else None
    truth = task.solutions(problem) if task else None
    return PromptScore(
        benchmark=benchmark,
        problem_id=problem_id,
        n=len(correct),
        c=sum(correct),
        unique_answers=len(answers),
        unique_solutions=len(solutions),
        unique_trees=None if trees is None else len(trees),
        n_solutions=None if truth is None else len(truth),
        n_trees=len({task.canonical_tree(s) for s in truth}) if task and truth else None,
        correct_samples=correct,
        answer_counts=_descending(answers),
        solution_counts=_descending(solutions),
        tree_counts=None if trees is None else _descending(trees),
    )


def _count_trees(solutions: Counter[str], task: ExpressionTask) -> Counter[str]:
    trees: Counter[str] = Counter()
    for solution, count in solutions.items():
        trees[task.canonical_tree(solution)] += count
    return trees


def _descending(counts: Counter[str]) -> list[int]:
    return sorted(counts.values(), reverse=True)
