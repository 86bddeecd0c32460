"""Two policies' graded files side by side: the verb `rsgrpo compare`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsgrpo.errors import UserError
from rsgrpo.evaluation.answers import Answers, read_answers
from rsgrpo.evaluation.compare import holm, paired_difference
from rsgrpo.evaluation.graded import common_name, refuse_other_problems
from rsgrpo.evaluation.passk import pass_at_k
from rsgrpo.evaluation.resampling import MEAN, Array, mean_weights
from rsgrpo.evaluation.statistics import largest_k, usable_ks, views

FEW_SEEDS = 5


class DifferenceRow(NamedTuple):
    """pass@k of A and of B, and B minus A with its interval.

    `p_value` is two-sided; `p_holm` is corrected for the values of k asked of one benchmark (of the
    means, which count as one). `n_samples_a` and `n_samples_b` are the fewest of a prompt.
    """

    benchmark: str
    k: int
    a: float
    b: float
    b_minus_a: float
    low: float
    high: float
    p_value: float
    p_holm: float
    n_samples_a: int
    n_samples_b: int
    n_prompts: int
    seeds_a: int
    seeds_b: int


class _Side(NamedTuple):
    """One policy's files on the same prompts: correct_SP and n_SP."""

    correct_SP: Any
    n_SP: Any

    def passk(self, at: Any, ks: Sequence[int]) -> list[Array]:
        """Return passk_PK of some prompts for each seed."""
        pairs = zip(self.correct_SP, self.n_SP, strict=True)
        return [pass_at_k(c_P[at], n_P[at], ks) for c_P, n_P in pairs]


def difference_rows(
    first: Sequence[Path],
    second: Sequence[Path],
    ks: Sequence[int] | None = None,
    *,
    benchmarks: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[DifferenceRow]:
    """Return how B differs from A on the same prompts, by a paired bootstrap.

    Prompts are drawn within their benchmark and are the same for A and B; seeds of a side that has
    several are drawn too. Holm's correction takes the values of k of one benchmark as a family, and
    those of the means as another; benchmarks are not corrected against each other.

    Args:
        first: A's graded files, one for each training seed.
        second: B's.
        ks: The values of k; None: powers of two up to the fewest samples of any benchmark's
            prompts, of the benchmark that has most.
        benchmarks: Those to keep; None: all.
        resamples: Bootstrap draws.
        seed: Seed of the draws.

    Raises:
        UserError: As in `read_answers`, the files differ in problems or in what an id stands for,
            or no k has a value.
    """
    paths = [*first, *second]
    read = [read_answers([path], votes=False, benchmarks=benchmarks) for path in paths]
    read = _under_one_name(read)
    prompts = read[0]
    pairs = zip(read, paths, strict=True)
    counts = np.array([_in_order_of(prompts, part, paths[0], path) for part, path in pairs])
    sides = [_Side(*part.swapaxes(0, 1)) for part in (counts[: len(first)], counts[len(first) :])]
    refuse_other_problems(paths, benchmarks)
    fewest_P = counts[:, 1].min(axis=0)
    asked = usable_ks(ks, largest_k(prompts.benchmarks_P, fewest_P))
    rows: list[DifferenceRow] = []
    for name, at, some in views(prompts.benchmarks_P, fewest_P, asked):
        names_P = prompts.benchmarks_P[at]
        rows += _rows_of(name, names_P, at, some, sides, resamples, seed)
    return _corrected(rows, set(prompts.benchmarks_P.tolist()))


def seed_warnings(row: DifferenceRow) -> list[str]:
    """Return why a row's interval and p-values are too sure of themselves: few training seeds."""
    several = [seeds for seeds in (row.seeds_a, row.seeds_b) if seeds > 1]
    if not several or min(several) >= FEW_SEEDS:
        return []
    return [
        f"a side has {min(several)} seeds: where seeds differ more than prompts do, intervals and "
        f"p-values of fewer than {FEW_SEEDS} seeds are too narrow and too small"
    ]


def _under_one_name(read: Sequence[Answers]) -> list[Answers]:
    name = common_name([set(answers.benchmarks_P.tolist()) for answers in read])
    if name is None:
        return list(read)
    return [a._replace(benchmarks_P=np.full(len(a.n_P), name)) for a in read]


def _in_order_of(prompts: Answers, part: Answers, path: Path, other: Path) -> Any:
    """Return a file's c and n in the order of another's prompts.

    Raises:
        UserError: It has other prompts.
    """
    wanted, there = _place_of(prompts), _place_of(part)
    for here, held, holder, lacks in ((wanted, there, path, other), (there, wanted, other, path)):
        for benchmark, problem in here:
            if (benchmark, problem) not in held:
                raise UserError(
                    f"problem {problem} of {benchmark} is in {holder} and not in {lacks}: compare "
                    "files of the same problems, or name benchmarks that both have in --benchmarks"
                )
    order = [there[pair] for pair in wanted]
    return part.correct_P[order], part.n_P[order]


def _place_of(answers: Answers) -> dict[tuple[str, str], int]:
    pairs = zip(answers.benchmarks_P.tolist(), answers.problems_P.tolist(), strict=True)
    return {pair: at for at, pair in enumerate(pairs)}


def _rows_of(
    name: str,
    names_P: Any,
    at: Any,
    ks: Sequence[int],
    sides: Sequence[_Side],
    resamples: int,
    seed: int,
) -> list[DifferenceRow]:
    first, second = (side.passk(at, ks) for side in sides)
    found = paired_difference(second, first, names_P, resamples=resamples, seed=seed)
    weights_P = mean_weights(names_P)
    means = [weights_P @ np.mean(passk, axis=0) for passk in (first, second)]
    columns = zip(ks, *means, *found, strict=True)
    sizes = [int(side.n_SP[:, at].min()) for side in sides]
    seeds = [len(side.n_SP) for side in sides]
    size = (*sizes, len(at), *seeds)
    return [
        DifferenceRow._make((name, k, *map(float, figures), math.nan, *size))
        for k, *figures in columns
    ]


def _corrected(rows: Sequence[DifferenceRow], benchmarks: set[str]) -> list[DifferenceRow]:
    families: dict[str, list[DifferenceRow]] = {}
    for row in rows:
        family = row.benchmark if row.benchmark in benchmarks else MEAN
        families.setdefault(family, []).append(row)
    return [
        row._replace(p_holm=float(p))
        for family in families.values()
        for row, p in zip(family, holm([row.p_value for row in family]), strict=True)
    ]
