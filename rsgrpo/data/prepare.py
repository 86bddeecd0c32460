"""The stage that turns a data source into problems for training and for evaluation.

Writes `train.jsonl`, `corpus.jsonl` (Countdown: what pre-training may see) and one folder of
benchmarks: `development/` and `test/` for Countdown, `benchmarks/` for JSONL files of one's own.
From a training set of one's own, rows that occur twice and rows that are in a benchmark are
dropped; `dropped.json` lists them.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsgrpo.config import Config, DataConfig
from rsgrpo.data import countdown
from rsgrpo.data.duplicates import Distinct, drop_duplicates
from rsgrpo.data.jsonl import read_problems, write_problems, write_rows
from rsgrpo.data.overlap import NEAR_RULE, Overlap, find_overlaps
from rsgrpo.errors import UserError
from rsgrpo.records import Problem


def prepare(config: Config, *, out: Path, files: Mapping[str, Path] | None = None) -> None:
    """Write the problems of `config.data` and their identity (rows and SHA-256 of each file).

    Args:
        config: The study; `data` is read.
        out: Where the files go.
        files: JSONL files by their name below `out` without the ending: `train`,
            `benchmarks/NAME`.

    Raises:
        UserError: A JSONL file is missing or malformed, nothing is left of the training set, or
            the tiers are too small for the split.
    """
    if config.data.source == "countdown":
        _prepare_countdown(config.data, out)
    else:
        _prepare_files(config.data, files or {}, out)
    identity = {str(f.relative_to(out)): _identity(f) for f in sorted(out.rglob("*.jsonl"))}
    (out / "dataset.json").write_text(json.dumps(identity, indent=1), encoding="utf-8")


def read_benchmarks(prepared: Path, split: str) -> dict[str, list[Problem]]:
    """Return the problems of each benchmark of a split, by name.

    Args:
        prepared: The output folder of `prepare`.
        split: `development` or `test`; files of one's own have a single split.

    Raises:
        UserError: There is nothing to evaluate on.
    """
    own = prepared / "benchmarks"
    folder = own if own.exists() else prepared / split
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise UserError("the config names no benchmark: add one under data.benchmarks")
    return {file.stem: read_problems(file) for file in files}


def _prepare_files(data: DataConfig, files: Mapping[str, Path], out: Path) -> None:
    problems = {name: read_problems(file, data.limit) for name, file in files.items()}
    if "train" in problems:
        rows = problems.pop("train")
        distinct = drop_duplicates(rows)
        named = {name.removeprefix("benchmarks/"): rows for name, rows in problems.items()}
        pairs = find_overlaps(distinct.kept, named) if data.drop_overlaps and named else []
        repeated = {pair.train_id for pair in pairs}
        problems["train"] = [row for row in distinct.kept if row.id not in repeated]
        if not problems["train"]:
            raise UserError(
                f"nothing is left of the {len(rows)} rows of data.train: {len(repeated)} are in a "
                "benchmark, the others occur twice; name other files, or set data.drop_overlaps "
                "to false"
            )
        dropped = _dropped(rows, distinct, pairs, data.drop_overlaps)
        (out / "dropped.json").write_text(json.dumps(dropped, indent=1), encoding="utf-8")
        if dropped["kept"] < len(rows):
            _tell(dropped, out / "dropped.json")
    for name, rows in problems.items():
        write_problems(out / f"{name}.jsonl", rows)


def _tell(dropped: dict[str, Any], file: Path) -> None:
    print(
        f"warning: {dropped['rows'] - dropped['kept']} of {dropped['rows']} training rows are "
        f"dropped: {dropped['duplicates']['rows']} duplicates, "
        f"{dropped['conflicting_answers']['rows']} with conflicting answers, "
        f"{dropped['overlaps']['rows']} in a benchmark; they are listed in {file}",
        file=sys.stderr,
    )


def _dropped(
    rows: list[Problem], distinct: Distinct, pairs: list[Overlap], looked_for_overlaps: bool
) -> dict[str, Any]:
    conflicting = [row.id for group in distinct.conflicts for row in group]
    repeated = {pair.train_id for pair in pairs}
    return {
        "rows": len(rows),
        "kept": len(distinct.kept) - len(repeated),
        "duplicates": {"rows": len(distinct.duplicates), "ids": distinct.duplicates},
        "conflicting_answers": {
            "texts": len(distinct.conflicts),
            "rows": len(conflicting),
            "ids": conflicting,
        },
        "overlaps": {
            "looked_for": looked_for_overlaps,
            "near_rule": NEAR_RULE,
            "rows": len(repeated),
            "pairs": [pair._asdict() for pair in pairs],
        },
    }


def _prepare_countdown(data: DataConfig, out: Path) -> None:
    held_out: set[tuple[tuple[int, ...], int]] = set()
    pool: list[Problem] = []
    for tier in countdown.TIERS:
        puzzles = [p for p in countdown.puzzles() if p.tier == tier]
        random.Random(f"{data.seed}-{tier}").shuffle(puzzles)
        size = data.prompts_per_tier
        if len(puzzles) <= 2 * size:
            raise UserError(
                f"data.prompts_per_tier is {size}: tier {tier} has {len(puzzles)} prompts, "
                f"two splits and a pool need more; set it below {len(puzzles) // 2}"
            )
        for split, start in (("development", 0), ("test", size)):
            chosen = puzzles[start : start + size]
            held_out.update((p.numbers, p.target) for p in chosen)
            write_problems(out / split / f"{tier}.jsonl", _problems(chosen, data.seed))
        pool += _problems(puzzles[2 * size : 2 * size + data.pool_per_tier], data.seed)
    write_problems(out / "train.jsonl", pool)
    corpus = [p for p in countdown.puzzles() if (p.numbers, p.target) not in held_out]
    write_rows(out / "corpus.jsonl", (_corpus_row(puzzle) for puzzle in corpus))


def _corpus_row(puzzle: countdown.Puzzle) -> dict[str, object]:
    return {"tier": puzzle.tier, "solutions": [str(chain) for chain in puzzle.solutions]}


def _problems(puzzles: list[countdown.Puzzle], seed: int) -> list[Problem]:
    rows = []
    for puzzle in puzzles:
        identity = f"{'-'.join(map(str, puzzle.numbers))}-{puzzle.target}"
        order = list(puzzle.numbers)
        random.Random(f"{seed}-{identity}").shuffle(order)
        rows.append(countdown.to_problem(puzzle, tuple(order), identity))
    return rows


def _identity(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"rows": content.count(b"\n"), "sha256": hashlib.sha256(content).hexdigest()}
