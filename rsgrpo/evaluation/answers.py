"""What a graded file says of each prompt: how many samples, how many correct, which answers.

Columns are read one batch at a time and counted as arrays of codes: no completion is loaded, and
700,000 samples take some tens of MiB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsgrpo.errors import UserError, unknown
from rsgrpo.evaluation.graded import graded_batches
from rsgrpo.grading.normalise import normalise

if TYPE_CHECKING:
    import pyarrow

Codes = npt.NDArray[np.int64]
_REQUIRED = ("benchmark", "problem_id", "correct")
# Of a longer answer a digest stands for the text.
_LONGEST_KEPT = 64


class Answers(NamedTuple):
    """The prompts of graded files, in the order in which they were met.

    `correct_P` and `n_P` count samples. `votes_P` holds for each prompt the size of each class of
    equal answers, the correct ones (one class, perhaps empty) first; samples without an answer are
    in none. It is None where a file has no extracted answers.
    """

    benchmarks_P: npt.NDArray[np.str_]
    problems_P: npt.NDArray[np.str_]
    correct_P: Codes
    n_P: Codes
    votes_P: list[Codes] | None


def read_answers(
    paths: Sequence[Path], *, votes: bool = True, benchmarks: Sequence[str] | None = None
) -> Answers:
    """Count the samples of one graded file or of several that hold different problems.

    Args:
        paths: Parquet files with the columns benchmark, problem_id and correct; where they have
            sample_index, doubles are refused, where they have extracted, answers are counted.
        votes: Whether to count answers.
        benchmarks: Those to keep; None: all.

    Raises:
        UserError: As in `graded_batches`, a sample or a problem is there twice, or a benchmark is
            not.
    """
    parts = [_read_file(path, votes) for path in paths]
    _refuse_shared_problems(paths, parts)
    known = all(part.votes_P is not None for part in parts)
    answers = Answers(
        np.concatenate([part.benchmarks_P for part in parts]),
        np.concatenate([part.problems_P for part in parts]),
        np.concatenate([part.correct_P for part in parts]),
        np.concatenate([part.n_P for part in parts]),
        [counts for part in parts for counts in part.votes_P or []] if known else None,
    )
    return answers if benchmarks is None else _only(answers, benchmarks)


def _only(answers: Answers, benchmarks: Sequence[str]) -> Answers:
    there = list(dict.fromkeys(answers.benchmarks_P.tolist()))
    for name in benchmarks:
        if name not in there:
            raise UserError(unknown("benchmark", name, there))
    chosen = np.flatnonzero(np.isin(answers.benchmarks_P, benchmarks))
    votes = answers.votes_P
    return Answers(
        answers.benchmarks_P[chosen],
        answers.problems_P[chosen],
        answers.correct_P[chosen],
        answers.n_P[chosen],
        None if votes is None else [votes[at] for at in chosen],
    )


class _Register:
    """Gives each new text the next code."""

    def __init__(self, key: Callable[[str], str] = str) -> None:
        self._key = key
        self.code_of: dict[str, int] = {}

    def codes(self, column: pyarrow.Array) -> Codes:
        """Return the code of each row; an empty value counts as an empty text."""
        import pyarrow as pa

        encoded = column.cast(pa.string()).fill_null("").dictionary_encode()
        code_of = self.code_of
        texts = encoded.dictionary.to_pylist()
        table = [code_of.setdefault(self._key(text), len(code_of)) for text in texts]
        codes: Codes = np.asarray(table, np.int64)[encoded.indices.to_numpy()]
        return codes


class _Rows(NamedTuple):
    """A code for each sample's benchmark and problem, its index, and its label.

    Labels are 0 for a correct answer, -1 for none, else one for each answer.
    """

    prompt_N: Codes
    sample_N: Codes
    label_N: Codes


def _read_file(path: Path, votes: bool) -> Answers:
    benchmarks, problems, texts = _Register(), _Register(), _Register(answer_class)
    texts.code_of[""] = 0
    optional = ("sample_index", *(("extracted", "verdict") if votes else ()))
    read, has_votes = [], False
    for batch in graded_batches(path, _REQUIRED, optional):
        prompt = benchmarks.codes(batch.column("benchmark")) << 32
        prompt |= problems.codes(batch.column("problem_id"))
        has_votes = "extracted" in batch.schema.names
        read.append(_Rows(prompt, _sample_indices(path, batch), _labels(batch, texts)))
    rows = _Rows(*(np.concatenate(column) for column in zip(*read, strict=True)))
    names = list(benchmarks.code_of), list(problems.code_of)
    if len(rows.sample_N):
        _refuse_double_samples(path, rows, names[1])
    return _counted(rows, *names, has_votes)


def answer_class(text: str) -> str:
    r"""Return what stands for an answer when votes are counted: equal ones have it in common.

    Spellings that the grader takes for one at sight, such as `\dfrac{1}{2}` and `\frac{1}{2}`, are.
    """
    return digest_of_long(normalise(text.strip()))


def digest_of_long(text: str) -> str:
    """Return a text of up to 64 characters as it is, a digest in place of a longer one."""
    if len(text) <= _LONGEST_KEPT:
        return text
    return "\0" + blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _sample_indices(path: Path, batch: pyarrow.RecordBatch) -> Codes:
    if "sample_index" not in batch.schema.names:
        return np.empty(0, np.int64)
    column = batch.column("sample_index")
    if not str(column.type).startswith(("int", "uint")):
        raise UserError(f"{path}: column sample_index holds {column.type}: it must be integers")
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)


def _labels(batch: pyarrow.RecordBatch, texts: _Register) -> Codes:
    import pyarrow.compute as pc

    correct = batch.column("correct").to_numpy(zero_copy_only=False)
    if "extracted" not in batch.schema.names:
        return np.where(correct, 0, -1)
    label = texts.codes(batch.column("extracted"))
    label[label == 0] = -1
    if "verdict" in batch.schema.names:
        silent = pc.equal(batch.column("verdict"), "no_answer").fill_null(False)
        label[silent.to_numpy(zero_copy_only=False)] = -1
    label[correct] = 0
    return label


def _counted(rows: _Rows, benchmarks: list[str], problems: list[str], votes: bool) -> Answers:
    keys, first, prompt_N, n_P = np.unique(
        rows.prompt_N, return_index=True, return_inverse=True, return_counts=True
    )
    as_met = np.argsort(first)
    keys, n_P = keys[as_met], n_P[as_met]
    prompt_N = np.argsort(as_met)[prompt_N]
    correct_P = np.bincount(prompt_N[rows.label_N == 0], minlength=len(keys))
    return Answers(
        np.array(benchmarks)[keys >> 32],
        np.array(problems)[keys & 0xFFFFFFFF],
        correct_P.astype(np.int64),
        n_P.astype(np.int64),
        _votes(prompt_N, rows.label_N, correct_P) if votes else None,
    )


def _votes(prompt_N: Codes, label_N: Codes, correct_P: Any) -> list[Codes]:
    wrong = label_N > 0
    span = int(label_N.max()) + 1
    cells, sizes = np.unique(prompt_N[wrong] * span + label_N[wrong], return_counts=True)
    ends = np.searchsorted(cells, np.arange(1, len(correct_P)) * span)
    return [
        np.concatenate([[correct], counts]).astype(np.int64)
        for correct, counts in zip(correct_P, np.split(sizes, ends), strict=True)
    ]


def _refuse_double_samples(path: Path, rows: _Rows, problems: list[str]) -> None:
    order = np.lexsort((rows.sample_N, rows.prompt_N))
    prompt, index = rows.prompt_N[order], rows.sample_N[order]
    double = np.flatnonzero((prompt[1:] == prompt[:-1]) & (index[1:] == index[:-1]))
    if len(double):
        at = double[0]
        raise UserError(
            f"{path} holds sample {index[at]} of problem {problems[prompt[at] & 0xFFFFFFFF]} "
            "twice: grade each sample once"
        )


def _refuse_shared_problems(paths: Sequence[Path], parts: Sequence[Answers]) -> None:
    holder: dict[tuple[str, str], Path] = {}
    for path, part in zip(paths, parts, strict=True):
        for pair in zip(part.benchmarks_P.tolist(), part.problems_P.tolist(), strict=True):
            if pair in holder:
                raise UserError(
                    f"problem {pair[1]} of {pair[0]} is in {holder[pair]} and again in {path}: "
                    "give each problem once, or compare the files with rsgrpo compare"
                )
            holder[pair] = path
