"""Which share of the training prompts has been solved at least once, and when?

Every draw counts: the first pass of a step as well as the prompts drawn in place of silent groups
(both before any filter). A prompt is solved from the first step on in which one of its samples was
correct; what happens to it later does not matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rsgrpo.analyses.dynamics import Draw
from rsgrpo.analyses.transitions import wilson
from rsgrpo.errors import UserError


class SolveRate(NamedTuple):
    """How far a run has come by the end of a step.

    `drawn` counts the draws of prompts up to here and `redrawn` those of them that took the place
    of silent groups; `seen` counts distinct prompts, `solved` those with a correct sample so far
    and `new_solves` those first solved in this step. `rate` is solved / seen with its 95% Wilson
    interval; `share_of_set` is solved / training set, None where its size is not known.
    """

    step: int
    drawn: int
    redrawn: int
    seen: int
    solved: int
    new_solves: int
    rate: float
    low: float
    high: float
    share_of_set: float | None


def solve_rate(
    draws: Mapping[tuple[int, int], Draw], n_prompts: int | None = None
) -> list[SolveRate]:
    """Return the cumulative solve rate after each step, steps in order.

    Args:
        draws: What each (step, round) drew, round 0 being the first pass.
        n_prompts: Prompts of the training set; None where that is not known.
    """
    rows: list[SolveRate] = []
    seen: set[str] = set()
    solved: set[str] = set()
    drawn = redrawn = 0
    for step, rounds in _by_step(draws):
        before = len(solved)
        for number, draw in rounds:
            drawn += len(draw.prompts_P)
            redrawn += len(draw.prompts_P) if number else 0
            seen.update(draw.prompts_P)
            solved.update(p for p, c in zip(draw.prompts_P, draw.correct_P, strict=True) if c > 0)
        new, share = len(solved) - before, len(solved) / n_prompts if n_prompts else None
        counts = (step, drawn, redrawn, len(seen), len(solved), new)
        rows.append(SolveRate(*counts, *wilson(len(solved), len(seen)), share))
    return rows


def draws_of_histories(
    rows: Iterable[tuple[int, Mapping[str, object]]],
) -> dict[tuple[int, int], Draw]:
    """Return accuracy histories as draws: the t-th visit of every prompt is step t.

    Args:
        rows: `(line number, {prompt_index, n_per_visit, acc_history})`, one for each prompt.

    Raises:
        UserError: A prompt occurs twice, or an accuracy is no multiple of 1 / n_per_visit.
    """
    visits: dict[int, tuple[list[str], list[int]]] = defaultdict(lambda: ([], []))
    known: set[str] = set()
    sizes: set[int] = set()
    for line, row in rows:
        prompt, n = str(row["prompt_index"]), _size(row["n_per_visit"], line)
        if prompt in known:
            raise UserError(f"line {line} holds prompt {prompt} again: give each prompt one line")
        known.add(prompt)
        sizes.add(n)
        for step, correct in enumerate(_counts(row["acc_history"], n, line), 1):
            visits[step][0].append(prompt)
            visits[step][1].append(correct)
    return {(step, 0): Draw(max(sizes), *columns) for step, columns in visits.items()}


def every(rows: Sequence[SolveRate], steps: int) -> list[SolveRate]:
    """Return the first, the last and each `steps`-th row; new solves count from the row before.

    Args:
        rows: One row for each step.
        steps: Rows to a row; 1 returns all.
    """
    kept = [i for i in range(len(rows)) if i in (0, len(rows) - 1) or (i + 1) % steps == 0]
    before = [0, *(rows[i].solved for i in kept)]
    return [
        rows[i]._replace(new_solves=rows[i].solved - b) for i, b in zip(kept, before, strict=False)
    ]


def _by_step(
    draws: Mapping[tuple[int, int], Draw],
) -> Iterator[tuple[int, list[tuple[int, Draw]]]]:
    steps: dict[int, list[tuple[int, Draw]]] = defaultdict(list)
    for (step, number), draw in sorted(draws.items()):
        steps[step].append((number, draw))
    yield from steps.items()


def _size(value: object, line: int) -> int:
    if isinstance(value, int) and value > 0:
        return value
    raise UserError(f"line {line}: n_per_visit is {value!r}: it must be a whole number above 0")


def _counts(history: object, n: int, line: int) -> Iterator[int]:
    if not isinstance(history, list):
        raise UserError(f"line {line}: acc_history is {history!r}: it must be a list of accuracies")
    for accuracy in history:
        if not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:
            raise UserError(f"line {line}: accuracy {accuracy!r} must be a number from 0 to 1")
        if abs(accuracy * n - round(accuracy * n)) > 1e-6:
            raise UserError(f"line {line}: accuracy {accuracy} is no multiple of 1/{n}")
        yield round(accuracy * n)
