"""The verbs `rsgrpo evaluate` and `passk`. Nothing heavy is imported before one runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rsgrpo.errors import UserError
from rsgrpo.terminal import ConfigFiles, Overrides, Root, print_rows, use_one_thread


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(evaluate)
    app.command()(passk)


def evaluate(
    config: ConfigFiles = None,
    set_: Overrides = None,
    out: Root = Path("runs"),
    policy: Annotated[
        str | None, typer.Option(help="Policy directory or hub id; the config's base by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
) -> None:
    """Sample, grade and score a policy on the config's benchmarks.

    Without a config it is the embedded Countdown policy, pre-trained here first.
    """
    from rsgrpo.config import load_config
    from rsgrpo.stages import run
    from rsgrpo.study import base_policy, base_run, prepared
    from rsgrpo.tracking.journal import begin_study, end_study

    changed = [*(set_ or ()), *([f"policy.checkpoint={json.dumps(policy)}"] if policy else [])]
    study = load_config(config, changed)
    if not study.policy.checkpoint:
        use_one_thread()
    evaluated = base_run(study, base_policy(study))
    begin_study(out, study, run(out, prepared(study)))
    scored = run(out, evaluated.score)
    end_study(out, study, scores={evaluated.name: scored}, trainings={}, files={})
    rows = json.loads((scored / "passk.json").read_text(encoding="utf-8"))
    print_rows(rows, as_json)


def passk(
    graded: Annotated[Path, typer.Argument(help="Parquet file written by `rsgrpo grade`.")],
    k: Annotated[str | None, typer.Option("--k", help="Values of k: 1,2,4,8.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.", min=100)] = 2000,
) -> None:
    """Print unbiased pass@k of graded completions with 95% intervals over prompts."""
    from rsgrpo.evaluation.score import passk_file

    print_rows(passk_file(graded, read_ks(k), resamples, seed=0), as_json)


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
