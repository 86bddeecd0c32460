"""The answers of one call, gathered so that equal questions are asked once, and their verdicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from rsgrpo.grading.extract import extract_answer
from rsgrpo.grading.normalise import normalise
from rsgrpo.grading.verify import Check, equal_at_sight
from rsgrpo.records import Answer, Verdict

Progress = Callable[[int, int], None]

_NO_ANSWER = Verdict("", "no_answer", False)


class Pair(NamedTuple):
    """A gold answer and the text to be judged against it."""

    gold: str
    text: str


class Sheet:
    """The answers of one call and the verdicts so far.

    Making it runs the stages that need no process: extraction, normalisation, and equality as
    strings or as integers. `questions` is what they leave undecided, each distinct pair once.
    """

    def __init__(
        self,
        answers: Sequence[Answer],
        mode: Literal["boxed", "full"],
        progress: Progress | None = None,
    ) -> None:
        """Read the answers.

        Args:
            answers: Any number.
            mode: As in `extract_answer`; only what stood in a box is normalised.
            progress: Called with (rows graded, rows).
        """
        self._mode = mode
        self._progress = progress
        self._n_rows = len(answers)
        self._graded: dict[int, Verdict] = {}
        self._rows: defaultdict[Pair, list[int]] = defaultdict(list)
        for row, answer in enumerate(answers):
            text = extract_answer(answer.completion, mode)
            if text is None:
                self._graded[row] = _NO_ANSWER
            else:
                self._rows[Pair(answer.answer, text)].append(row)
        self._asked: defaultdict[Pair, list[Pair]] = defaultdict(list)
        for pair in self._rows:
            self._decide_at_sight(pair)
        self._report()

    @property
    def questions(self) -> list[Pair]:
        """The distinct pairs, normalised, that are not decided at sight."""
        return list(self._asked)

    def settle(self, question: Pair, result: Check) -> None:
        """Give every row that asked a question its verdict."""
        for pair in self._asked[question]:
            self._give(pair, result)
        self._report()

    def verdicts(self) -> list[Verdict]:
        """Return one verdict for each answer, in their order."""
        assert len(self._graded) == self._n_rows, "one verdict for each answer"
        return [self._graded[row] for row in range(self._n_rows)]

    def _decide_at_sight(self, pair: Pair) -> None:
        equal = equal_at_sight(*pair)
        question = pair
        if equal is None and self._mode == "boxed":
            question = Pair(pair.gold, normalise(pair.text))
            equal = equal_at_sight(normalise(pair.gold), question.text)
        if equal is None:
            self._asked[question].append(pair)
        else:
            self._give(pair, Check("correct" if equal else "incorrect", pair.text))

    def _give(self, pair: Pair, result: Check) -> None:
        extracted = pair.text if self._mode == "boxed" else result.extracted
        verdict = Verdict(extracted, result.verdict, result.verdict == "correct")
        self._graded.update(dict.fromkeys(self._rows[pair], verdict))

    def _report(self) -> None:
        if self._progress:
            self._progress(len(self._graded), self._n_rows)
