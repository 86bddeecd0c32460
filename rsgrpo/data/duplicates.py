"""Problems that occur more than once.

Texts are compared as they stand: the comparison of `rsgrpo.data.overlap`, by letters and digits,
would take `2n + 1` and `2n - 1` for one problem with two answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from rsgrpo.records import Problem


class Distinct(NamedTuple):
    """Problems with distinct texts, and what was dropped to get them.

    `duplicates` are the ids of later rows with the same text and answer; each group of `conflicts`
    is every row of a text that has several answers.
    """

    kept: list[Problem]
    duplicates: list[str]
    conflicts: list[list[Problem]]


def drop_duplicates(problems: Iterable[Problem]) -> Distinct:
    """Keep the first of each text; drop every row of a text whose rows disagree on the answer."""
    by_text: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_text[problem.problem].append(problem)
    agreed = [rows for rows in by_text.values() if len({row.answer for row in rows}) == 1]
    conflicts = [rows for rows in by_text.values() if len({row.answer for row in rows}) > 1]
    duplicates = [row.id for rows in agreed for row in rows[1:]]
    return Distinct([rows[0] for rows in agreed], duplicates, conflicts)
