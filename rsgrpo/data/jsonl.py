"""JSON lines: one row a line, every fault named with its file and line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rsgrpo.errors import UserError
from rsgrpo.records import Problem


def read_rows(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    r"""Yield `(line number, row)` for each line, split on "\n" alone, one line in memory at a time.

    Args:
        path: A UTF-8 file with one JSON object a line; blank lines are skipped.
        required: Keys that every row must hold with a value.

    Raises:
        UserError: The file is missing or not UTF-8, a line is no JSON object, or a key is missing.
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"file {path} does not exist: check the path") from None
    with stream:
        begin = 0
        for number, line in enumerate(stream, 1):
            text = _decode(line, path, number, begin)
            begin += len(line)
            if text.strip():
                yield number, _parse(text, path, number, required)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def read_problems(path: Path, limit: int | None = None) -> list[Problem]:
    """Read problems `{id, problem, answer}`; ids are unique within a file.

    Raises:
        UserError: As in `read_rows`, or an id occurs twice, or the file holds no problem.
    """
    problems: dict[str, Problem] = {}
    for number, row in read_rows(path, ("id", "problem", "answer")):
        identity = str(row["id"])
        if identity in problems:
            raise UserError(f"file {path}, line {number}: id {identity!r} occurs twice: rename it")
        problems[identity] = Problem(
            identity, str(row["problem"]), str(row["answer"]), str(row.get("source") or path.stem)
        )
        if len(problems) == limit:
            break
    if not problems:
        raise UserError(f"file {path} holds no problem: give it lines of {{id, problem, answer}}")
    return list(problems.values())


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write problems as JSON lines `{id, problem, answer, source}`."""
    write_rows(path, (problem._asdict() for problem in problems))


def _decode(line: bytes, path: Path, number: int, begin: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise UserError(
            f"file {path}, line {number} is not UTF-8 at byte {begin + fault.start} of the file: "
            "convert it"
        ) from None


def _parse(line: str, path: Path, number: int, required: Sequence[str]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as fault:
        reason = f"is not valid JSON ({fault.msg} at column {fault.colno})"
        raise UserError(f"file {path}, line {number} {reason}: mend or remove it") from None
    except (ValueError, RecursionError):
        reason = "holds a number too long or a list too deep to be read"
        raise UserError(f"file {path}, line {number} {reason}: mend or remove it") from None
    if not isinstance(row, dict):
        raise UserError(f"file {path}, line {number} is not a JSON object: write one row a line")
    missing = [key for key in required if row.get(key) is None]
    if missing:
        raise UserError(f"file {path}, line {number} has no {missing[0]!r}: every row needs it")
    return row
