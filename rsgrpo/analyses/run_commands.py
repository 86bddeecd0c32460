"""The verbs `rsgrpo analyse solve-rate | diagnosis | tradeoff`, which read runs of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsgrpo.errors import UserError
from rsgrpo.evaluation.commands import read_ks
from rsgrpo.terminal import AsCsv, AsJson, print_rows

if TYPE_CHECKING:
    from rsgrpo.analyses.diagnosis import Finding
    from rsgrpo.analyses.dynamics import Draw
    from rsgrpo.analyses.places import Counts

Resamples = Annotated[int, typer.Option(help="Bootstrap resamples.", min=100)]
Runs = Annotated[
    list[Path], typer.Argument(help="Study's root, training's folder or spool; several at once.")
]

_DIAGNOSIS_NOTES = {
    "evidence": "{run}, {signature} {found}: {evidence}",
    "next_step": "{run}, {signature}, next: {next_step}",
    "rule": "rule of {signature}: {rule}",
}


def register(app: typer.Typer) -> None:
    """Add the verbs to `rsgrpo analyse`."""
    app.command("solve-rate")(solve_rate_verb)
    app.command("diagnosis")(diagnosis_verb)
    app.command("tradeoff")(tradeoff_verb)


def solve_rate_verb(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Study's root, training's folder or spool; or a JSONL file of "
            "{prompt_index, n_per_visit, acc_history}."
        ),
    ],
    every: Annotated[
        int, typer.Option(help="Show each N-th step, the first and the last.", min=1)
    ] = 1,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Print which share of the training prompts has been solved at least once, step by step.

    Counts every prompt drawn: a step's first pass and what was drawn in place of silent groups.
    """
    from rsgrpo.analyses.solve_rate import every as thinned
    from rsgrpo.analyses.solve_rate import solve_rate

    rows = [
        {"run": name, **row._asdict()}
        for place in runs
        for name, draws, size in _draws(place)
        for row in thinned(solve_rate(draws, size), every)
    ]
    _show(rows, as_json, as_csv)


def diagnosis_verb(
    runs: Runs,
    base: Annotated[
        Path | None, typer.Option(help="Graded samples of the base policy: file or folder.")
    ] = None,
    graded: Annotated[
        Path | None, typer.Option(help="Graded samples of the run's policy; with one RUN.")
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", help="The high k; a quarter of the samples.", min=2)
    ] = None,
    resamples: Resamples = 2000,
    tag: Annotated[
        bool, typer.Option("--tag", help="Store as tags of the runs, shipped by `rsgrpo sync`.")
    ] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Print the failure signatures of training runs: rule, evidence, interval and next step.

    Of a study's root every run is compared with its base as evaluated there; elsewhere the
    evaluation is what --base and --graded name.
    """
    if graded and len(runs) > 1:
        raise UserError(f"--graded belongs to one run, not to {len(runs)}: name one training")
    rows = [row for place in runs for row in _diagnosed(place, base, graded, k, resamples, tag)]
    _show(rows, as_json, as_csv, _DIAGNOSIS_NOTES)


def tradeoff_verb(
    places: Annotated[
        list[Path], typer.Argument(help="Study's root or folders of the stage score.")
    ],
    k: Annotated[
        str, typer.Option("--k", help="The first k against each other one: 1,64.")
    ] = "1,16",
    resamples: Resamples = 2000,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Print pass@k at two k of each method, Pareto front and knee, over prompts and seeds."""
    from rsgrpo.analyses.places import read_score, score_folders
    from rsgrpo.analyses.study import build_study
    from rsgrpo.analyses.tables import tradeoff_rows

    ks = read_ks(k) or ()
    if len(set(ks)) < 2:
        raise UserError(f"--k is {k!r}: give two or more different k with commas, 1,16")
    scores = [read_score(folder) for place in places for folder in score_folders(place)]
    _refuse_more_than_drawn(ks, min(p.n for score in scores for p in score.prompts))
    study = build_study(scores, ks=ks, headline_k=max(ks), resamples=resamples, seed=0)
    rows = [row for high in dict.fromkeys(ks[1:]) for row in tradeoff_rows(study, ks[0], high)]
    _show(rows, as_json, as_csv, {"rule": "knee: {rule}"})


def _refuse_more_than_drawn(ks: Sequence[int], fewest: int) -> None:
    if max(ks) > fewest:
        raise UserError(
            f"k={max(ks)} is above the {fewest} samples that a prompt has: choose a smaller --k or "
            "draw more samples"
        )


def _draws(place: Path) -> list[tuple[str, Mapping[tuple[int, int], Draw], int | None]]:
    from rsgrpo.analyses.places import run_logs

    if place.suffix == ".jsonl" and place.name != "spool.jsonl":
        return [_histories(place)]
    logs = run_logs(place)
    if empty := [log for log in logs if not log.record.draws]:
        raise UserError(
            f"{empty[0].spool} names no prompts that training drew: train again with this version"
        )
    return [(log.name, log.record.draws, log.record.n_prompts) for log in logs]


def _histories(path: Path) -> tuple[str, Mapping[tuple[int, int], Draw], int]:
    from rsgrpo.analyses.solve_rate import draws_of_histories
    from rsgrpo.data.jsonl import read_rows

    rows = list(read_rows(path, ("prompt_index", "n_per_visit", "acc_history")))
    if not rows:
        raise UserError(f"{path} holds no rows: give one line for each prompt")
    try:
        return path.stem, draws_of_histories(rows), len(rows)
    except UserError as fault:
        raise UserError(f"{path}, {fault}") from None


def _diagnosed(
    place: Path, base: Path | None, graded: Path | None, k: int | None, resamples: int, tag: bool
) -> list[dict[str, Any]]:
    from rsgrpo.analyses.diagnosis import diagnose
    from rsgrpo.analyses.places import evaluations, run_logs, under_one_name
    from rsgrpo.evaluation.graded import graded_file, refuse_other_problems

    rows: list[dict[str, Any]] = []
    scored = evaluations(place) if place.is_dir() else {}
    logs = run_logs(place)
    if graded and len(logs) > 1:
        raise UserError(f"--graded belongs to one run and {place} holds {len(logs)}: name one")
    if base and graded:
        refuse_other_problems([graded_file(base), graded_file(graded)])
    from_base = _counts(base, scored.get("base"))
    for log in logs:
        policy = _counts(graded, scored.get(log.record.run))
        counts = under_one_name(policy, from_base)
        found = diagnose(log.record, *counts, high_k=k, resamples=resamples)
        rows += [{"run": log.name, **finding._asdict()} for finding in found]
        if tag:
            _tag(place, log.record.run, found)
    return rows


def _counts(graded: Path | None, score: Path | None) -> Counts | None:
    from rsgrpo.analyses.places import counts_of, graded_counts, read_score

    if graded:
        return graded_counts(graded)
    return counts_of(read_score(score)) if score else None


def _tag(place: Path, run: str, found: Sequence[Finding]) -> None:
    from rsgrpo.tracking.journal import record_diagnosis

    root = place.parent if place.is_file() else place
    if (root / "manifest.json").exists() or root.parent.name == "train":
        root = root.parent.parent
    record_diagnosis(root, run, [finding._asdict() for finding in found])


def _show(
    rows: list[dict[str, Any]], as_json: bool, as_csv: bool, notes: Mapping[str, str] | None = None
) -> None:
    """Print rows; of a table, columns too wide for it as one line each: column -> its wording."""
    if as_json or as_csv:
        print_rows([_finite(row) for row in rows], as_json, as_csv)
        return
    said = notes or {}
    print_rows([{n: v for n, v in row.items() if n not in said} for row in rows], False)
    lines = [wording.format(**row) for wording in said.values() for row in rows]
    for line in dict.fromkeys(lines):
        typer.echo(line)


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
