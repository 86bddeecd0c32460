"""The samples of graded files, prompt by prompt, for the questions that are asked of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rsgrpo.errors import UserError
from rsgrpo.evaluation.graded import common_name, graded_batches

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")

_TEXTS = ("benchmark", "problem_id", "problem", "answer", "completion", "extracted", "verdict")
_MAY_BE_EMPTY = ("extracted", "mean_entropy")


class Prompt(NamedTuple):
    """A prompt's name: its benchmark and its id there."""

    benchmark: str
    problem_id: str

    def __str__(self) -> str:
        """Return both for a sentence."""
        return f"problem {self.problem_id!r} of {self.benchmark}"


def label_of(file: Path) -> str:
    """Return a graded file's name for a table: that of its folder where a stage wrote it."""
    return file.resolve().parent.name if file.name == "graded.parquet" else file.stem


def has_column(file: Path, name: str) -> bool:
    """Return whether a Parquet file has a column; any other file has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return name in pq.read_schema(file).names
    except pa.ArrowInvalid:
        return False


def rows_of(file: Path) -> int:
    """Return the number of rows of a Parquet file."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(file).num_rows)


def read_samples(
    file: Path,
    columns: Sequence[str],
    keep: Callable[[Mapping[str, Any]], T],
    progress: Callable[[int, int], None] | None = None,
) -> dict[Prompt, list[T]]:
    """Return what is kept of each sample, by prompt, in order of sampling.

    Args:
        file: Graded Parquet file, read a few thousand rows at a time.
        columns: What `keep` needs; no other column is read but the three that name the sample.
        keep: Makes of a row what stays in memory.
        progress: Called with (rows read, rows).

    Raises:
        UserError: The file is missing, no Parquet, empty, lacks a column or has a sample twice.
    """
    kept: dict[Prompt, dict[int, T]] = defaultdict(dict)
    wanted = list(dict.fromkeys(["benchmark", "problem_id", "sample_index", *columns]))
    read = 0
    for batch in checked_batches(file, wanted):
        read += batch.num_rows
        for row in batch.to_pylist():
            prompt, index = Prompt(row["benchmark"], row["problem_id"]), row["sample_index"]
            if index in kept[prompt]:
                raise UserError(f"{file} holds sample {index} of {prompt} twice: grade it once")
            kept[prompt][index] = keep(row)
        if progress:
            progress(read, rows_of(file))
    return {prompt: [drawn[i] for i in sorted(drawn)] for prompt, drawn in kept.items()}


def checked_batches(file: Path, columns: Sequence[str]) -> Iterator[pyarrow.RecordBatch]:
    """Yield batches of a graded file whose columns hold what their names promise.

    Raises:
        UserError: As for `graded_batches`; or a text or sample_index is of another kind or empty.
    """
    for batch in graded_batches(file, columns):
        for name in columns:
            _refuse_other_kind(file, name, batch.column(name))
        yield batch


def read_verdicts(file: Path) -> dict[Prompt, list[bool]]:
    """Return whether each sample is correct, by prompt, in order of sampling.

    Raises:
        UserError: As for `read_samples`.
    """
    return read_samples(file, ["correct"], lambda row: bool(row["correct"]))


def aligned(
    files: Mapping[str, Mapping[Prompt, list[T]]],
) -> tuple[list[Prompt], dict[str, dict[Prompt, list[T]]]]:
    """Return the prompts that all of several files have, in the order of the first, and the files.

    Rollouts graded by hand bear the name of their file as that of their benchmark: where every file
    has one benchmark, the first's name stands for all.

    Args:
        files: What each file holds of each prompt, by the file's name for an error.

    Raises:
        UserError: A file lacks a prompt that another has; the first such prompt is named.
    """
    one = common_name([{prompt.benchmark for prompt in prompts} for prompts in files.values()])
    renamed = {
        name: {p._replace(benchmark=one) if one else p: d for p, d in prompts.items()}
        for name, prompts in files.items()
    }
    (first, prompts), *others = renamed.items()
    for other, its_prompts in others:
        _refuse_other_prompts(first, prompts, other, its_prompts)
        _refuse_other_prompts(other, its_prompts, first, prompts)
    return list(prompts), renamed


def common_n(asked: int | None, files: Mapping[str, Mapping[Prompt, Sequence[Any]]]) -> int:
    """Return the number of samples at which files are compared.

    Args:
        asked: What the user asks for; None takes the smallest number that any prompt has.
        files: The samples of each prompt in each file, by the file's name for an error.

    Raises:
        UserError: A prompt has fewer samples than asked for, or fewer than 1 is asked for.
    """
    if asked is not None and asked < 1:
        raise UserError(f"n is {asked}: compare at 1 sample or more")
    n, name, prompt = min(
        (
            (len(drawn), name, prompt)
            for name, kept in files.items()
            for prompt, drawn in kept.items()
        )
    )
    if asked is not None and asked > n:
        raise UserError(
            f"n is {asked} and {name} has only {n} samples of {prompt}: compare at {n} or fewer"
        )
    return n if asked is None else asked


def _refuse_other_kind(file: Path, name: str, column: pyarrow.Array) -> None:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if name in _TEXTS and not is_text:
        raise UserError(f"{file}: column {name} holds {kind}: it must hold text")
    if name == "sample_index" and not pa.types.is_integer(kind):
        raise UserError(f"{file}: column {name} holds {kind}: number the samples from 0")
    if column.null_count and name not in _MAY_BE_EMPTY:
        raise UserError(f"{file}: column {name} has an empty value: grade every completion")


def _refuse_other_prompts(
    having: str, prompts: Mapping[Prompt, Any], lacking: str, others: Mapping[Prompt, Any]
) -> None:
    missing = next((prompt for prompt in prompts if prompt not in others), None)
    if missing:
        raise UserError(
            f"{having} has {missing} and {lacking} has not: compare files of the same prompts"
        )
