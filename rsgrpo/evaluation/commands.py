"""The verbs `rsgrpo evaluate`, `passk` and `compare`. Nothing heavy is imported before one runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rsgrpo.errors import UserError
from rsgrpo.terminal import AsCsv, AsJson, ConfigFiles, Overrides, Root, print_rows, use_one_thread

Ks = Annotated[
    str | None, typer.Option("--k", help="Values of k: 1,2,4,8; powers of two by default.")
]
Resamples = Annotated[int, typer.Option(help="Bootstrap resamples.", min=100)]
Benchmarks = Annotated[str | None, typer.Option("--benchmarks", help="Only these: aime24,math500.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(evaluate)
    app.command()(passk)
    app.command()(compare)


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A training run's folder, a checkpoint's, or a hub id; the config's base by "
            "default."
        ),
    ] = None,
    config: ConfigFiles = None,
    set_: Overrides = None,
    out: Root = Path("runs"),
    samples: Annotated[
        int | None,
        typer.Option(help="Samples of each problem, in place of sampling.n and n_of.", min=1),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first problems of each benchmark.", min=1)
    ] = None,
    benchmarks: Benchmarks = None,
    server: Annotated[
        list[str] | None,
        typer.Option(help="URL of an OpenAI-compatible server of MODEL (repeatable)."),
    ] = None,
    rollouts: Annotated[
        Path | None, typer.Option(help="Completions made elsewhere, JSONL or Parquet.")
    ] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Sample, grade and score a policy, and record it for tracking; stopped, it goes on.

    Without a config: the embedded Countdown task for its own policy and runs; for any other model
    the paper's six benchmarks with 1,024 samples of each problem, 32 of MATH500's.
    """
    from rsgrpo.evaluated import Asked, evaluated_run, evaluated_training, evaluation_config
    from rsgrpo.evaluation.score import STATISTICS
    from rsgrpo.evaluation.statistics import k_warnings
    from rsgrpo.stages import run
    from rsgrpo.study import prepared
    from rsgrpo.tracking.journal import begin_study, end_study

    asked = Asked(model, samples, limit, read_names(benchmarks) or (), server or (), rollouts)
    study = evaluation_config(asked, config, set_ or ())
    if not study.policy.checkpoint:
        use_one_thread()
    evaluated = evaluated_run(study, asked)
    begin_study(out, study, None if rollouts else run(out, prepared(study)))
    scored = run(out, evaluated.score)
    trainings = evaluated_training(out, study, evaluated)
    end_study(out, study, scores={evaluated.name: scored}, trainings=trainings, files={})
    rows = json.loads((scored / STATISTICS).read_text(encoding="utf-8"))
    for row in rows:
        row["warnings"] = k_warnings(row["benchmark"], row["k"], row["n_samples"])
    print_rows(rows, as_json, as_csv, once=("policy", "method", "risk_beta", "seed"))


def passk(
    graded: Annotated[
        list[Path], typer.Argument(help="Files written by `rsgrpo grade`, or folders with one.")
    ],
    k: Ks = None,
    benchmarks: Benchmarks = None,
    resamples: Resamples = 2000,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Print pass@k, avg@n and maj@k of graded completions with 95% intervals.

    `low` and `high` bound the interval over prompts, `sampling_low` and `sampling_high` the one
    over samples with the prompts fixed.
    """
    from rsgrpo.evaluation.answers import read_answers
    from rsgrpo.evaluation.graded import graded_file
    from rsgrpo.evaluation.statistics import largest_k, public, statistic_rows, usable_ks

    ks = read_ks(k)
    files = [graded_file(place) for place in graded]
    answers = read_answers(files, benchmarks=read_names(benchmarks))
    asked = usable_ks(ks, largest_k(answers.benchmarks_P, answers.n_P))
    rows = statistic_rows(answers, asked, resamples=resamples, seed=0)
    print_rows([public(row) for row in rows], as_json, as_csv)


def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A", help="Graded file or folder; several seeds of a method with commas."
        ),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The same of what A is compared to.")],
    k: Ks = None,
    benchmarks: Benchmarks = None,
    resamples: Resamples = 2000,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Print how much B's pass@k is above A's on the same prompts, with 95% intervals.

    A paired bootstrap over prompts, and over seeds where a side has several. `p_holm` is corrected
    for all k of one benchmark; the means are a family of their own.
    """
    from rsgrpo.evaluation.differences import difference_rows, seed_warnings
    from rsgrpo.evaluation.graded import seed_files
    from rsgrpo.evaluation.statistics import public

    ks, names = read_ks(k), read_names(benchmarks)
    rows = difference_rows(
        seed_files(first), seed_files(second), ks, benchmarks=names, resamples=resamples
    )
    shown = [public(row) for row in rows]
    for fields, row in zip(shown, rows, strict=True):
        fields["warnings"] += seed_warnings(row)
    print_rows(shown, as_json, as_csv)


def read_names(text: str | None) -> list[str] | None:
    """Read `aime24,math500` as names; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",")]


def read_ks(text: str | None) -> tuple[int, ...] | None:
    """Read `1,2,4` as values of k; None stays None.

    Raises:
        UserError: It holds anything but positive whole numbers.
    """
    if text is None:
        return None
    try:
        ks = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--k is {text!r}: write whole numbers with commas, 1,2,4,8") from None
    if min(ks) < 1:
        raise UserError(f"--k is {text!r}: every k must be at least 1")
    return ks
