"""Where a user's path leads: the training logs and the scores of a study, run by run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rsgrpo.analyses.dynamics import TrainingRecord, read_spool
from rsgrpo.analyses.study import Identity, PolicyScore
from rsgrpo.errors import UserError
from rsgrpo.evaluation.answers import read_answers
from rsgrpo.evaluation.graded import common_name, graded_file
from rsgrpo.evaluation.score import read_prompts

SPOOL = "spool.jsonl"
PASSK = "passk.json"
Counts = dict[tuple[str, str], tuple[int, int]]


class RunLog(NamedTuple):
    """One training run: its folder's name, its spool and what that says."""

    name: str
    spool: Path
    record: TrainingRecord


def run_logs(place: Path) -> list[RunLog]:
    """Return the training logs at a place: a spool, a training's folder, or a study's root.

    Raises:
        UserError: There is none, or one is empty.
    """
    return [_log(spool) for spool in _spools(place)]


def read_log(path: Path) -> TrainingRecord:
    """Return what a spool holds.

    Raises:
        UserError: It is missing or holds no record of a training run.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: train the policy before analysing it")
    with path.open(encoding="utf-8", errors="replace") as lines:
        record = read_spool(lines)
    if not record.run and not record.metrics:
        raise UserError(f"{path} holds no record of a run: train the policy first")
    return record


def read_score(folder: Path) -> PolicyScore:
    """Return what the stage score left of a policy.

    Raises:
        UserError: A file is missing or holds no rows.
    """
    path = folder / PASSK
    if not path.is_file():
        raise UserError(f"{path} does not exist: score the policy before analysing the study")
    rows = _read_rows(path)
    if not rows:
        raise UserError(f"{path} holds no rows: score the policy on at least one problem")
    identity = Identity(**{name: rows[0][name] for name in Identity._fields})
    return PolicyScore(identity, rows, read_prompts(folder / "prompts.parquet"))


def score_folders(place: Path) -> list[Path]:
    """Return the scores at a place: itself, or those of a study's root, newest of each policy.

    Rollouts made elsewhere are of other prompts and left out of a root's.

    Raises:
        UserError: There is none.
    """
    if (place / PASSK).is_file():
        return [place]
    found = sorted(place.glob(f"score/*/{PASSK}"), key=lambda file: file.stat().st_mtime)
    newest = {_identity(file): file.parent for file in found}
    chosen = [folder for (_, method), folder in sorted(newest.items()) if method != "rollouts"]
    if not chosen:
        raise UserError(
            f"{place} holds no scores (score/*/{PASSK}): give a study's root or a score's folder"
        )
    return chosen


def counts_of(score: PolicyScore) -> Counts:
    """Return `{(benchmark, problem id): (correct, samples)}` of a score."""
    return {(p.benchmark, p.problem_id): (p.c, p.n) for p in score.prompts}


def graded_counts(place: Path) -> Counts:
    """Return the counts of a graded file, or of a folder with one.

    Raises:
        UserError: There is none, it lacks a column, or holds a sample twice.
    """
    found = read_answers([graded_file(place)], votes=False)
    prompts = zip(found.benchmarks_P.tolist(), found.problems_P.tolist(), strict=True)
    counts = zip(found.correct_P.tolist(), found.n_P.tolist(), strict=True)
    return dict(zip(prompts, counts, strict=True))


def under_one_name(policy: Counts | None, base: Counts | None) -> tuple[Counts | None, ...]:
    """Return both counts under one benchmark's name where each has one benchmark.

    Rollouts graded by hand bear the name of their file as that of their benchmark.
    """
    if not policy or not base:
        return policy, base
    sides = (policy, base)
    name = common_name([{benchmark for benchmark, _ in counts} for counts in sides])
    if name is None:
        return sides
    return tuple({(name, problem): at for (_, problem), at in side.items()} for side in sides)


def evaluations(root: Path) -> dict[str, Path]:
    """Return the score folder of each run of a study, by the id of its training run.

    The base policy's is under `base`. They are those that the study's own spool recorded, so that
    scores of other settings in the same root are not mistaken for them.
    """
    scores = {}
    for record in _starts(root / SPOOL):
        folder = root / "score" / str(record["run"]).removesuffix("-evaluation")
        if record["tags"].get("stage") == "evaluation" and (folder / PASSK).is_file():
            base = record["tags"].get("method") == "base"
            scores["base" if base else str(record["parent"])] = folder
    return scores


def _spools(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"{place} does not exist: give a training's folder or a study's root")
    below = sorted(place.glob(f"train/*/{SPOOL}"))
    if below:
        return below
    if (place / SPOOL).is_file() and not _is_of_study(place / SPOOL):
        return [place / SPOOL]
    raise UserError(
        f"{place} holds no training log ({SPOOL} or train/*/{SPOOL}): give a training's folder or "
        "a study's root"
    )


def _is_of_study(spool: Path) -> bool:
    """Return whether a spool is that of a study's root, where no training writes."""
    return any(record["tags"].get("stage") == "study" for record in _starts(spool))


def _log(spool: Path) -> RunLog:
    return RunLog(spool.parent.name, spool, read_log(spool))


def _identity(file: Path) -> tuple[str, str]:
    rows = _read_rows(file) or [{}]
    return str(rows[0].get("policy")), str(rows[0].get("method"))


def _read_rows(file: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{file} is not JSON as the stage score writes it: score again") from None
    return rows


def _starts(spool: Path) -> Iterator[dict[str, Any]]:
    if not spool.is_file():
        return
    with spool.open(encoding="utf-8", errors="replace") as lines:
        yield from _of_kind(lines, "start")


def _of_kind(lines: Iterable[str], kind: str) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("kind") == kind:
            yield record
