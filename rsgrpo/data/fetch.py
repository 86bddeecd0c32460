"""Bringing a named set into the data folder, from the hub or from a folder of JSONL files.

Writes `NAME.jsonl`, rows `{id, problem, answer, source}` with distinct texts, and then
`NAME.source.json`: where they come from, at which revision or with which SHA-256, under which
licence, and what was dropped. Asked again for the same source, nothing is done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rsgrpo.data.catalogue import CATALOGUE, DataSet, data_folder
from rsgrpo.data.duplicates import drop_duplicates
from rsgrpo.data.jsonl import read_problems, write_problems
from rsgrpo.errors import UserError, unknown
from rsgrpo.records import Problem


class Prepared(NamedTuple):
    """One set in the data folder. `conflicts` counts texts with several answers, all dropped."""

    name: str
    rows: int
    duplicates: int
    conflicts: int
    conflicting_rows: int
    source: str
    unchanged: bool
    file: Path
    warnings: list[str]


def chosen_sets(names: Iterable[str], source: Path | None) -> list[DataSet]:
    """Return the sets of the given names, or without names all that the source has.

    Args:
        names: Names of the catalogue.
        source: A folder of JSONL files, or None for the hub.

    Raises:
        UserError: A name is not in the catalogue, or the folder is missing or holds no named set.
    """
    names = list(names)
    for name in names:
        if name not in CATALOGUE:
            raise UserError(unknown("data set", name, list(CATALOGUE)))
    if names or source is None:
        return [CATALOGUE[name] for name in dict.fromkeys(names or CATALOGUE)]
    found = [entry for entry in CATALOGUE.values() if _file_in(source, entry)]
    if not found:
        wanted = ", ".join(entry.file for entry in CATALOGUE.values())
        raise UserError(f"folder {source} holds none of {wanted}: check --source")
    return found


def prepare_set(entry: DataSet, source: Path | None = None) -> Prepared:
    """Bring one set into the data folder, unless it is there from the same source.

    Args:
        entry: The set.
        source: A folder of JSONL files, or None for the hub.

    Raises:
        UserError: The source does not have it, cannot be reached, or its rows are not as expected.
    """
    record = read_record(entry.name)
    origin = _hub_origin(entry, record) if source is None else _folder_origin(entry, source)
    if record and _same(origin, record) and _is_whole(entry.name, record):
        return _summary(entry.name, record, unchanged=True)
    if source is None:
        origin["revision"] = origin["revision"] or _current_revision(entry)
        problems, rows_read = read_hub(entry, origin["revision"])
    else:
        problems = read_problems(Path(origin["file"]))
        rows_read = len(problems)
    return _summary(entry.name, _write(entry, origin, problems, rows_read), unchanged=False)


def read_record(name: str) -> dict[str, Any] | None:
    """Return what `NAME.source.json` says of a prepared set, or None where there is none."""
    try:
        text = (data_folder() / f"{name}.source.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    record: dict[str, Any] = json.loads(text)
    return record


def read_hub(entry: DataSet, revision: str) -> tuple[list[Problem], int]:
    """Read a set with `datasets`; return its distinct rows that have an answer, and all it held.

    Args:
        entry: The set; its hub id may be a local data set folder, which needs no network.
        revision: The commit to read.

    Raises:
        UserError: The hub cannot be reached, or a row lacks a column or is not as expected.
    """
    from datasets import load_dataset

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are not news
    try:
        table = load_dataset(entry.hub_id, entry.config, split=entry.split, revision=revision)
    except Exception as fault:  # the hub's client raises those of several libraries
        raise _unreachable(entry, fault) from fault
    columns = {entry.problem.split(".")[0], entry.answer.split(".")[0]}
    missing = sorted(columns - set(table.column_names))
    if missing:
        raise UserError(
            f"data set {entry.hub_id} has no column {missing[0]!r} but "
            f"{', '.join(table.column_names)}: it is not the set that {entry.name} names"
        )
    rows = dict.fromkeys(_texts(entry, row) for row in table.select_columns(sorted(columns)))
    source = f"{entry.hub_id}@{revision[:12]}"
    problems = [
        Problem(f"{entry.name}-{index:05d}", problem, answer, source)
        for index, (problem, answer) in enumerate(rows)
        if problem and answer
    ]
    return problems, len(table)


def _texts(entry: DataSet, row: Mapping[str, Any]) -> tuple[str, str]:
    try:
        return (
            entry.read_problem(str(_at(row, entry.problem))),
            entry.read_answer(str(_at(row, entry.answer))),
        )
    except (KeyError, IndexError, TypeError, ValueError) as fault:
        raise UserError(
            f"data set {entry.hub_id} has a row that cannot be read ({fault}): it is not the set "
            f"that {entry.name} names"
        ) from None


def _at(row: Any, column: str) -> Any:
    for part in column.split("."):
        row = row[int(part) if part.isdigit() else part]
    return row


def _unreachable(entry: DataSet, fault: Exception) -> UserError:
    reason = " ".join(str(fault).split())[:200]
    return UserError(
        f"data set {entry.name} could not be had from the hub as {entry.hub_id} ({reason}): check "
        "the network, or take it from a folder of JSONL files with --source DIR"
    )


def _current_revision(entry: DataSet) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(entry.hub_id, timeout=30).sha)
    except Exception as fault:
        raise _unreachable(entry, fault) from fault


def _hub_origin(entry: DataSet, record: Mapping[str, Any] | None) -> dict[str, Any]:
    origin = {"from": "hub", "hub_id": entry.hub_id, "config": entry.config, "split": entry.split}
    same = record is not None and all(record.get(key) == value for key, value in origin.items())
    pinned = record["revision"] if same and record else None
    return {**origin, "revision": entry.revision or pinned}


def _folder_origin(entry: DataSet, source: Path) -> dict[str, Any]:
    file = _file_in(source, entry)
    if file is None:
        raise UserError(f"folder {source} has no {entry.file}: check --source, or drop the name")
    return {"from": "folder", "file": str(file.absolute()), "file_sha256": _sha256(file)}


def _file_in(source: Path, entry: DataSet) -> Path | None:
    if not source.is_dir():
        raise UserError(f"--source {source} is no folder: write hub, or a folder of JSONL files")
    files = [source / entry.file, source / f"{entry.name}.jsonl"]
    return next((file for file in files if file.exists()), None)


def _same(origin: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    compared = {key: value for key, value in origin.items() if key != "file"}
    return all(record.get(key) == value for key, value in compared.items())


def _is_whole(name: str, record: Mapping[str, Any]) -> bool:
    file = data_folder() / f"{name}.jsonl"
    return file.exists() and _sha256(file) == record["sha256"]


def _write(
    entry: DataSet, origin: Mapping[str, Any], problems: list[Problem], rows_read: int
) -> dict[str, Any]:
    distinct = drop_duplicates(problems)
    conflicting = sum(len(rows) for rows in distinct.conflicts)
    file = data_folder() / f"{entry.name}.jsonl"
    partial = file.with_name(f".{file.name}.partial")
    write_problems(partial, distinct.kept)
    os.replace(partial, file)
    record = {
        "name": entry.name,
        **origin,
        "licence": entry.licence,
        "rows_read": rows_read,
        "rows": len(distinct.kept),
        "duplicates": rows_read - conflicting - len(distinct.kept),
        "conflicts": [
            [{"id": row.id, "answer": row.answer} for row in rows] for rows in distinct.conflicts
        ],
        "sha256": _sha256(file),
        "prepared_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, file.with_name(f"{entry.name}.source.json"))
    return record


def _summary(name: str, record: Mapping[str, Any], unchanged: bool) -> Prepared:
    conflicts = record["conflicts"]
    file = data_folder() / f"{name}.jsonl"
    warnings = []
    if conflicts:
        warnings.append(
            f"{name}: {len(conflicts)} texts have several answers and are dropped: they are listed "
            f"in {file.with_suffix('.source.json')}"
        )
    expected = CATALOGUE[name].rows if name in CATALOGUE else None
    if record["from"] == "hub" and expected not in (None, record["rows_read"]):
        warnings.append(f"{name}: {record['rows_read']} rows were read, {expected} are expected")
    rows = sum(len(group) for group in conflicts)
    source = record.get("file") or f"{record['hub_id']}@{record['revision'][:12]}"
    return Prepared(
        name,
        record["rows"],
        record["duplicates"],
        len(conflicts),
        rows,
        source,
        unchanged,
        file,
        warnings,
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
