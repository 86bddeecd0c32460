"""Reading files of graded completions, a few columns and a few thousand rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsgrpo.data.catalogue import CATALOGUE
from rsgrpo.errors import UserError

if TYPE_CHECKING:
    import pyarrow

GRADED = "graded.parquet"


def graded_file(place: Path) -> Path:
    """Return the graded Parquet file that a user means: the file itself, or a folder's.

    Raises:
        UserError: There is none at that place.
    """
    file = place / GRADED if place.is_dir() else place
    if not file.is_file():
        raise UserError(f"{file} does not exist or is no file: give the path of a Parquet file")
    return file


def seed_files(text: str) -> list[Path]:
    """Return the graded files of one side of a comparison.

    Args:
        text: A graded file or a folder with one, whose name may hold commas; or several, of one
            seed each, with commas between them.

    Raises:
        UserError: A place has none, there is no place, or two places are one file.
    """
    places = [text] if Path(text).exists() else [place for place in text.split(",") if place]
    if not text or not places:
        raise UserError(f"{text!r} names no file: give a graded file or a folder with one")
    files = [graded_file(Path(place)) for place in places]
    for at, file in enumerate(files):
        if any(file.samefile(other) for other in files[:at]):
            raise UserError(f"{text} names {file} twice: give each seed's file once")
    return files


def common_name(benchmarks: Sequence[set[str]]) -> str | None:
    """Return the name under which the only benchmarks of several files are compared.

    Rollouts graded by hand bear the name of their file as that of their benchmark, so that the same
    problems may have one name in each file. Two named data sets are never taken for one.

    Args:
        benchmarks: The names of the benchmarks in each file.

    Returns:
        The first file's name; None where a file has several, or two files different data sets.
    """
    names = [next(iter(held)) for held in benchmarks if len(held) == 1]
    known = {name for name in names if name in CATALOGUE}
    return names[0] if len(names) == len(benchmarks) and len(known) < 2 else None


def refuse_other_problems(files: Sequence[Path], benchmarks: Sequence[str] | None = None) -> None:
    """Refuse files in which one id stands for different problems, where they tell.

    A problem is another one where its text differs and its gold answer, too: either may be spelled
    anew. Files without the columns problem and answer are taken at their word.

    Args:
        files: Graded files that are to be compared prompt by prompt.
        benchmarks: Those that are compared; None: all.

    Raises:
        UserError: As in `graded_batches`, or two files differ in a problem.
    """
    problems = [_problems(file, benchmarks) for file in dict.fromkeys(files)]
    one = common_name([{benchmark for benchmark, _ in held} for held in problems])
    met: dict[tuple[str, str], tuple[Path, tuple[str, str]]] = {}
    for file, held in zip(dict.fromkeys(files), problems, strict=True):
        for (benchmark, problem), (text, gold) in held.items():
            known = (file, (text, gold))
            other, (its_text, its_gold) = met.setdefault((one or benchmark, problem), known)
            if text.strip() != its_text.strip() and gold.strip() != its_gold.strip():
                raise UserError(
                    f"problem {problem} of {benchmark} has another text and the gold answer "
                    f"{gold[:40]!r} in {file}, {its_gold[:40]!r} in {other}: compare files of the "
                    "same problems"
                )


def _problems(
    file: Path, benchmarks: Sequence[str] | None
) -> dict[tuple[str, str], tuple[str, str]]:
    """Return text and gold answer of each problem; none where the file does not hold both."""
    import pyarrow as pa

    names, told = ["benchmark", "problem_id"], ["problem", "answer"]
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for batch in graded_batches(file, names, told):
        if not set(told) <= set(batch.schema.names):
            return {}
        texts = {name: batch.column(name).cast(pa.string()) for name in (*names, *told)}
        table = pa.table(texts)
        firsts = table.group_by(names, use_threads=False).aggregate([(n, "first") for n in told])
        for row in firsts.to_pylist():
            if benchmarks is None or row["benchmark"] in benchmarks:
                known = row["problem_first"] or "", row["answer_first"] or ""
                found.setdefault((row["benchmark"], row["problem_id"]), known)
    return found


def graded_batches(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[pyarrow.RecordBatch]:
    """Yield some columns of a Parquet file of graded completions, a few thousand rows at a time.

    Args:
        path: The file.
        columns: Names of the columns to read; nothing else is loaded.
        optional: Further ones, read where the file has them.

    Raises:
        UserError: The file is missing, no Parquet, damaged, empty or without a column, or
            benchmark, problem_id, sample_index or correct has an empty value.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file: give the path of a Parquet file")
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid:
        raise UserError(f"{path} is not a Parquet file: give one written by rsgrpo grade") from None
    with file:
        _check_schema(path, file.schema_arrow, columns)
        if not file.metadata.num_rows:
            raise UserError(f"{path} holds no rows: grade at least one completion first")
        wanted = [*columns, *(name for name in optional if name in file.schema_arrow.names)]
        batches = file.iter_batches(batch_size=8192, columns=wanted)
        while batch := _next(path, batches):
            _refuse_ungraded(path, batch)
            yield batch


def _next(path: Path, batches: Iterator[pyarrow.RecordBatch]) -> pyarrow.RecordBatch | None:
    import pyarrow as pa

    try:
        return next(batches, None)
    except (OSError, pa.ArrowException) as fault:
        detail = " ".join(str(fault).split())
        raise UserError(f"{path} is damaged ({detail}): write it again") from None


def _check_schema(path: Path, schema: Any, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise UserError(
            f"{path} lacks the column {', '.join(missing)} (it has {', '.join(schema.names)}): "
            f"give a file written by rsgrpo grade"
        )
    if "correct" in columns and str(schema.field("correct").type) != "bool":
        kind = schema.field("correct").type
        raise UserError(f"{path}: column correct holds {kind}: it must be true or false")


def _refuse_ungraded(path: Path, batch: Any) -> None:
    for name in ("benchmark", "problem_id", "sample_index", "correct"):
        if name in batch.schema.names and batch.column(name).null_count:
            raise UserError(f"{path}: column {name} has an empty value: grade every completion")
