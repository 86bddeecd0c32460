"""How many different answers, and how many different correct solutions, has each prompt?

Counts of distinct things grow with the number of samples, so files are compared at one n: the count
expected among n samples drawn without replacement from those that there are (`diversity.rarefied`).
A solution is an expression tree on the embedded task and a MinHash cluster on text; its workings,
the finer look, are the operator sequences and the sets of equations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsgrpo.analyses.answer_classes import (
    PAIRS,
    AnswerClasses,
    Answered,
    Judge,
    answer_classes,
    class_counts,
)
from rsgrpo.analyses.diversity import rarefied
from rsgrpo.analyses.samples import Prompt, aligned, common_n, label_of, read_samples
from rsgrpo.analyses.strategies import (
    Sketch,
    chain_strategy,
    clusters,
    equations,
    is_countdown,
    sketches,
)
from rsgrpo.evaluation.passk import prompt_interval
from rsgrpo.evaluation.resampling import Array, Labels, benchmark_views, mean_weights
from rsgrpo.grading.sheet import Progress

Row = dict[str, Any]
COLUMNS = ("problem", "completion", "extracted", "verdict", "correct")
FIGURES = ("unique_answers", "unique_solutions", "unique_workings")
GAINS = ("answers_gain", "solutions_gain", "workings_gain")


class Drawn(NamedTuple):
    """What is kept of a sample: its answer and, where it is correct, its solution."""

    answered: Answered
    on_countdown: bool
    solution: str | Sketch | None
    workings: str | int | None


class PromptClasses(NamedTuple):
    """The samples of a prompt by class of answer, and its correct ones by solution and workings."""

    n: int
    answers: AnswerClasses
    solutions: list[int]
    workings: list[int]


def unique_rows(
    files: Sequence[Path],
    judge: Judge,
    *,
    n: int | None = None,
    pairs: int = PAIRS,
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Row]:
    """Return one row for each file and benchmark, and for the mean where there are several.

    Args:
        files: Graded Parquet files of the same prompts.
        judge: Says which wrong answers are the same (`answer_classes.pool_judge`).
        n: Samples at which they are compared; by default the fewest that any prompt has.
        pairs: Comparisons of answers for a prompt at most.
        resamples: Bootstrap draws of the intervals over prompts.
        seed: Seed of the draws.
        progress: Called with (rows read, rows) of each file.

    Returns:
        Rows `{file, n_samples, benchmark, n_prompts, unique_answers, unique_solutions,
        unique_workings, capped_prompts, undecided_pairs}`: means per prompt, with 95% bootstrap
        intervals over prompts in `..._low` and `..._high`. Several files have `answers_gain`,
        `solutions_gain` and `workings_gain` too: the difference to the first one, its interval
        paired over prompts.

    Raises:
        UserError: A file cannot be used, the prompts differ, or a prompt has fewer than n samples.
    """
    prompts, drawn = aligned(
        {str(f): read_samples(f, COLUMNS, keep_sample, progress) for f in files}
    )
    n = common_n(n, drawn)
    rows: list[Row] = []
    first_PF = None
    for file, samples in drawn.items():
        classes = prompt_classes([samples[prompt] for prompt in prompts], judge, pairs)
        figures_PF = _figures(classes, n)
        found = _file_rows(prompts, classes, figures_PF, first_PF, resamples, seed)
        rows += [{"file": label_of(Path(file)), "n_samples": n, **row} for row in found]
        first_PF = figures_PF if first_PF is None else first_PF
    return rows if len(drawn) > 1 else [_without_gains(row) for row in rows]


def keep_sample(row: Mapping[str, Any]) -> Drawn:
    """Return what is kept of a graded row; the text of a completion is not."""
    on_countdown = _is_countdown(row["problem"])
    answered = Answered(row["extracted"] or "", row["verdict"])
    if not row["correct"]:
        return Drawn(answered, on_countdown, None, None)
    if on_countdown:
        chain = chain_strategy(row["completion"])
        return Drawn(answered, True, *(chain or (row["completion"], row["completion"])))
    return Drawn(answered, False, *_text_solution(row["completion"]))


def prompt_classes(
    prompts: Sequence[Sequence[Drawn]], judge: Judge, pairs: int = PAIRS
) -> list[PromptClasses]:
    """Sort the samples of each prompt into classes.

    Args:
        prompts: The samples of each prompt; the embedded task's answers are told apart by spelling.
        judge: Says which wrong answers are the same.
        pairs: Comparisons of answers for a prompt at most.
    """
    chains = [place for place, drawn in enumerate(prompts) if drawn[0].on_countdown]
    answers = answer_classes(
        [[d.answered for d in drawn] for drawn in prompts], judge, pairs, chains
    )
    return [
        PromptClasses(
            len(drawn),
            classes,
            _solution_counts([d.solution for d in drawn if d.solution is not None]),
            class_counts(d.workings for d in drawn if d.workings is not None),
        )
        for drawn, classes in zip(prompts, answers, strict=True)
    ]


def _solution_counts(solutions: Sequence[str | Sketch]) -> list[int]:
    sketched = [solution for solution in solutions if not isinstance(solution, str)]
    if sketched:
        return class_counts(clusters(np.stack(sketched)))
    return class_counts(solution for solution in solutions if isinstance(solution, str))


def _figures(classes: Sequence[PromptClasses], n: int) -> Array:
    counts = ((p.n, (p.answers.counts, p.solutions, p.workings)) for p in classes)
    return np.array([[rarefied(c, drawn, n) for c in of_prompt] for drawn, of_prompt in counts])


def _file_rows(
    prompts: Sequence[Prompt],
    classes: Sequence[PromptClasses],
    figures_PF: Array,
    first_PF: Array | None,
    resamples: int,
    seed: int,
) -> list[Row]:
    names = [prompt.benchmark for prompt in prompts]
    rows = []
    for benchmark, chosen in benchmark_views(names):
        strata = np.asarray(names)[chosen]
        those = [c.answers for c, is_chosen in zip(classes, chosen, strict=True) if is_chosen]
        row: Row = {"benchmark": benchmark, "n_prompts": len(those)}
        row |= _means(FIGURES, figures_PF[chosen], strata, resamples, seed)
        if first_PF is None:
            row |= {f"{name}{bound}": None for name in GAINS for bound in ("", "_low", "_high")}
        else:
            row |= _means(GAINS, (figures_PF - first_PF)[chosen], strata, resamples, seed)
        row["capped_prompts"] = sum(answers.capped for answers in those)
        row["undecided_pairs"] = sum(answers.undecided for answers in those)
        rows.append(row)
    return rows


def _means(
    names: Sequence[str], figures_PF: Array, strata: Labels, resamples: int, seed: int
) -> Row:
    values_F = mean_weights(strata) @ figures_PF
    interval = prompt_interval(figures_PF, strata, resamples=resamples, seed=seed)
    row: Row = {}
    for name, *figure in zip(names, values_F, *interval, strict=True):
        columns = (name, f"{name}_low", f"{name}_high")
        row |= dict(zip(columns, map(float, figure), strict=True))
    return row


def _without_gains(row: Row) -> Row:
    return {name: value for name, value in row.items() if not name.startswith(GAINS)}


@lru_cache(maxsize=8192)
def _text_solution(completion: str) -> tuple[Sketch, int]:
    # Low temperatures draw the same text again and again.
    return sketches([completion])[0], hash(equations(completion))


@lru_cache(maxsize=4096)
def _is_countdown(problem: str) -> bool:
    return is_countdown(problem)
