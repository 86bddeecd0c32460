"""Which answers of a prompt are the same answer?

All correct answers are one class and `no_answer` is another. Wrong answers are one where their
spellings agree once normalised, or where Math-Verify takes one for the other (union-find closes
that over all of them). Answers that could not be graded keep to their spelling.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from fractions import Fraction
from itertools import combinations, islice
from typing import NamedTuple

from rsgrpo.grading.extract import extract_answer
from rsgrpo.grading.pool import GradingPool
from rsgrpo.grading.sheet import Progress
from rsgrpo.records import Answer

PAIRS = 200
_CORRECT, _NONE = "correct", "no_answer"

_UNSEEN = re.compile(r"\$|\\left(?![A-Za-z])|\\right(?![A-Za-z])|\\[!,;:]")
_SPACES = re.compile(r"(?:\\ |\s)+")
# Between two digits a space counts: `3 1/2` is not `31/2`.
_IDLE_SPACE = re.compile(r"(?<!\d) | (?!\d)", re.ASCII)
_EXACT = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<a>\d{1,18})(?:/(?P<b>\d{1,18}))?"
    r"|\\frac(?:\{(?P<c>\d{1,18})\}\{(?P<d>\d{1,18})\}|(?P<e>\d)(?P<f>\d)))",
    re.ASCII,
)
_DECIMAL = re.compile(r"[+-]?\d{0,18}\.\d{1,18}", re.ASCII)


class Answered(NamedTuple):
    """One sample's final answer and its verdict."""

    text: str
    verdict: str


class AnswerClasses(NamedTuple):
    """The class of each sample, and what was not decided.

    `capped` says that some pairs of answers were not compared, `undecided` how many comparisons ran
    out of time or failed; such answers count as different.
    """

    labels: list[int]
    capped: bool = False
    undecided: int = 0

    @property
    def counts(self) -> list[int]:
        """The samples in each class, largest first."""
        return class_counts(self.labels)


Judge = Callable[[Sequence[tuple[str, str]]], Sequence[str]]


def class_counts(labels: Iterable[Hashable]) -> list[int]:
    """Return how many samples bear each label, largest first."""
    return sorted(Counter(labels).values(), reverse=True)


def spelling_classes(samples: Sequence[Answered]) -> AnswerClasses:
    """Return classes by the answer's text alone, `no_answer` apart: for the embedded task."""
    return AnswerClasses(
        _numbered((s.verdict == _NONE, "" if s.verdict == _NONE else s.text) for s in samples)
    )


def answer_classes(
    prompts: Sequence[Sequence[Answered]],
    judge: Judge,
    pairs: int = PAIRS,
    by_spelling: Collection[int] = (),
) -> list[AnswerClasses]:
    """Return the answer classes of the samples of each prompt.

    Args:
        prompts: The samples of each prompt.
        judge: Returns a verdict for each pair of answers, the first being the gold one: they are
            the same where it is `correct`, and it is undecided on `timeout` and `error`.
        pairs: Comparisons for a prompt at most; those between its commonest answers come first.
        by_spelling: Places of the prompts of the embedded task, sorted by `spelling_classes`.
    """
    spelled = {place: spelling_classes(prompts[place]) for place in by_spelling}
    sheets = [_Sheet(s, pairs) for place, s in enumerate(prompts) if place not in spelled]
    asked = [pair for sheet in sheets for pair in sheet.pairs]
    verdicts = iter(judge(asked) if asked else ())
    judged = (sheet.classes(list(islice(verdicts, len(sheet.pairs)))) for sheet in sheets)
    return [spelled[place] if place in spelled else next(judged) for place in range(len(prompts))]


def pool_judge(pool: GradingPool, progress: Progress | None = None) -> Judge:
    """Return a judge that asks Math-Verify, each pair within the pool's limits.

    Args:
        pool: A pool that reads boxed answers.
        progress: Called with (pairs judged, pairs).
    """

    def judge(pairs: Sequence[tuple[str, str]]) -> list[str]:
        answers = [Answer("", "", gold, 0, _boxed(text)) for gold, text in pairs]
        return [verdict.verdict for verdict in pool.grade(answers, progress)]

    return judge


def normalised(text: str) -> str:
    r"""Return an answer in one spelling: `1/2`, `\frac{1}{2}`, `$\dfrac12$` and `0.50` are one."""
    bare = _bare(text)
    number = _EXACT.fullmatch(bare)
    if number:
        over = int(number["b"] or number["d"] or number["f"] or 1)
        above = int(number["a"] or number["c"] or number["e"])
        return str(Fraction(-above if number["sign"] == "-" else above, over)) if over else bare
    return str(Fraction(bare)) if _DECIMAL.fullmatch(bare) else bare


class _Sheet:
    """The answers of one prompt: the wrong ones by spelling, and the pairs to be judged."""

    def __init__(self, samples: Sequence[Answered], cap: int) -> None:
        self._keys: list[tuple[str, str]] = [_key(sample) for sample in samples]
        spellings: dict[str, list[str]] = {}
        for sample, (kind, key) in zip(samples, self._keys, strict=True):
            if kind == "incorrect":
                spellings.setdefault(key, []).append(sample.text)
        self._open = sorted(spellings, key=lambda key: -len(spellings[key]))
        # Integers and fractions are equal or they are not: only the rest needs Math-Verify.
        exact = [any(_EXACT.fullmatch(_bare(t)) for t in spellings[key]) for key in self._open]
        whole = [_is_whole(spellings[key][0]) for key in self._open]
        places = (
            (one, other)
            for one, other in combinations(range(len(self._open)), 2)
            if whole[one] and whole[other] and not (exact[one] and exact[other])
        )
        self._places = list(islice(places, cap + 1))
        self._capped = len(self._places) > cap
        del self._places[cap:]
        self.pairs = [
            (spellings[self._open[one]][0], spellings[self._open[other]][0])
            for one, other in self._places
        ]

    def classes(self, verdicts: Sequence[str]) -> AnswerClasses:
        root = list(range(len(self._open)))
        for (one, other), verdict in zip(self._places, verdicts, strict=True):
            if verdict == _CORRECT:
                root[_find(root, other)] = _find(root, one)
        merged = {key: _find(root, place) for place, key in enumerate(self._open)}
        labels = _numbered(
            (kind, merged[key] if kind == "incorrect" else key) for kind, key in self._keys
        )
        undecided = sum(verdict in ("timeout", "error") for verdict in verdicts)
        return AnswerClasses(labels, self._capped, undecided)


def _key(sample: Answered) -> tuple[str, str]:
    if sample.verdict in (_CORRECT, _NONE):
        return sample.verdict, ""
    return sample.verdict, normalised(sample.text)


def _bare(text: str) -> str:
    bare = _IDLE_SPACE.sub("", _SPACES.sub(" ", _UNSEEN.sub("", text))).rstrip(".")
    return bare.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def _is_whole(text: str) -> bool:
    # An answer with a box of its own, or a brace that does not close, would be read as another one.
    return extract_answer(_boxed(text), "boxed") == text


def _boxed(text: str) -> str:
    return f"\\boxed{{{text}}}"


def _find(root: list[int], place: int) -> int:
    while root[place] != place:
        root[place] = root[root[place]]
        place = root[place]
    return place


def _numbered(keys: Iterable[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]
