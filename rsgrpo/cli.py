"""The command line: verbs only. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsgrpo.data import commands as data_commands
from rsgrpo.errors import UserError, explain_os_error

if TYPE_CHECKING:
    from rsgrpo.config import Config

app = typer.Typer(
    name="rsgrpo",
    help="Train language models with risk-sensitive GRPO; measure pass@1 against pass@k.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(data_commands.app, name="data")

# The extra that brings each package that a verb may miss.
EXTRAS = {
    "torch": "torch",
    "math_verify": "grade",
    "transformers": "train",
    "trl": "train",
    "datasets": "data",
    "datasketch": "data",
    "mlflow": "track",
    "prefect": "orchestrate",
    "psutil": "orchestrate",
    "optuna": "sweep",
    "plotly": "dashboards",
}

ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", help="Study as a YAML file (repeatable: later files win)."),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override: training.risk_beta=4 (repeatable).")
]
Root = Annotated[Path, typer.Option("--out", help="Folder of all results; reused and resumed.")]


@app.command()
def train(
    config: ConfigFiles = None,
    set_: Overrides = None,
    out: Root = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the study's plan and its cost; do nothing.")
    ] = False,
) -> None:
    """Train one policy with the config's `training` branch; prints its directory.

    Without a config it is the embedded Countdown policy, pre-trained here first.
    """
    from rsgrpo.config import load_config
    from rsgrpo.stages import run
    from rsgrpo.study import base_policy, prepared, trained_run
    from rsgrpo.tracking.journal import begin_study

    study = load_config(config, set_ or ())
    if dry_run:
        _print_plan(study)
        return
    if not study.policy.checkpoint:
        _use_one_thread()
    trained = trained_run(study, base_policy(study))
    assert trained.training is not None
    begin_study(out, study, run(out, prepared(study)))
    typer.echo(run(out, trained.training))


@app.command()
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
        _use_one_thread()
    evaluated = base_run(study, base_policy(study))
    begin_study(out, study, run(out, prepared(study)))
    scored = run(out, evaluated.score)
    end_study(out, study, scores={evaluated.name: scored}, trainings={}, files={})
    rows = json.loads((scored / "passk.json").read_text(encoding="utf-8"))
    _print_rows(rows, as_json)


@app.command("config")
def show_config(
    config: ConfigFiles = None,
    set_: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Print the whole config that files and overrides add up to."""
    import yaml

    from rsgrpo.config import load_config

    tree = load_config(config, set_ or ()).model_dump(mode="json")
    typer.echo(json.dumps(tree) if as_json else yaml.safe_dump(tree, sort_keys=False).rstrip())


@app.command()
def grade(
    rollouts: Annotated[Path, typer.Argument(help="JSONL or Parquet of completions.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file to write.")],
    extract: Annotated[str, typer.Option(help="boxed: last \\boxed{} only; full: any answer.")] = (
        "boxed"
    ),
    timeout: Annotated[float, typer.Option(help="Seconds for one answer.")] = 5.0,
    workers: Annotated[int, typer.Option(help="Grading processes.")] = 1,
) -> None:
    """Grade completions with Math-Verify in processes that can be killed."""
    from rsgrpo.config import math_grading
    from rsgrpo.grading.files import grade_file

    grading = math_grading(extract=extract, timeout=timeout, workers=workers)
    summary = grade_file(rollouts, out, grading, progress=_progress_of("graded"))
    typer.echo("  ".join(f"{name} {value:.6g}" for name, value in summary._asdict().items()))


@app.command()
def passk(
    graded: Annotated[Path, typer.Argument(help="Parquet file written by `rsgrpo grade`.")],
    k: Annotated[str | None, typer.Option("--k", help="Values of k: 1,2,4,8.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.", min=100)] = 2000,
) -> None:
    """Print unbiased pass@k of graded completions with 95% intervals over prompts."""
    from rsgrpo.evaluation.score import passk_file

    _print_rows(passk_file(graded, _read_ks(k), resamples, seed=0), as_json)


@app.command()
def bandit(
    more_betas: Annotated[list[float] | None, typer.Argument(hidden=True)] = None,
    betas: Annotated[
        list[float] | None, typer.Option("--betas", help="Risk betas: --betas 0 2 4 8.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.", min=1)] = 20,
    pulls: Annotated[int, typer.Option(help="Pulls of each run, a multiple of 16.")] = 400_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
) -> None:
    """Run the paper's 100-armed bandit: which beta leaves the local optimum."""
    _use_one_thread()
    from rsgrpo.bandit import BETAS, run_bandit

    chosen = [*(betas or ()), *(more_betas or ())] or BETAS
    rows = run_bandit(chosen, range(seeds), pulls, progress=_progress_of("bandit: pull"))
    _print_rows([row.to_json() for row in rows], as_json)


@app.command()
def sync(
    root: Annotated[Path, typer.Argument(help="The --out folder of a study.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_TRACKING_URI",
            help="MLflow server or database; ROOT/mlflow.db by default.",
        ),
    ] = None,
) -> None:
    """Ship what training has recorded to MLflow; again and again without duplicates."""
    from rsgrpo.tracking.sender import sync as ship

    summary = ship(root, tracking_uri)
    typer.echo(
        f"{summary.runs} runs, {summary.metrics} numbers, {summary.tables} tables and "
        f"{summary.artifacts} artifacts shipped to {summary.tracking_uri}"
    )
    for path in summary.missing:
        print(f"warning: {path} was recorded and is not on disk", file=sys.stderr)


def main() -> None:
    """Run a verb; a fault of the user's is one sentence and exit status 2."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, to their callers
    for entry in entry_points(group="rsgrpo.commands"):
        _add(entry)
    try:
        app()
    except UserError as fault:
        _end(str(fault), 2)
    except OSError as fault:
        _end(explain_os_error(fault), 2)
    except ModuleNotFoundError as fault:
        _end(_missing_package(fault), 2)
    except SystemExit as end:  # Typer makes Ctrl-C a silent exit
        if end.code == 130:
            _end("stopped; the same command goes on from here", 130)
        raise


def _add(entry: EntryPoint) -> None:
    """Add the verbs of a wing; where it is not ours to be found, a verb that says so."""
    wing = Path(__file__).parent.parent / entry.module.split(".")[0]
    if wing.is_dir():
        entry.load()(app)
        return

    @app.command(entry.name, hidden=True, context_settings={"ignore_unknown_options": True})
    def missing(_: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        raise UserError(
            f"rsgrpo {entry.name} needs the folder {wing.name}/, which only a checkout has: clone "
            "the repository and install it with pip install -e ."
        )


def _missing_package(fault: ModuleNotFoundError) -> str:
    package = (fault.name or "").split(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        raise fault
    return f"this needs the package {package}: install the extra, pip install -e '.[{extra}]'"


def _read_ks(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        ks = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--k is {text!r}: write whole numbers with commas, 1,2,4,8") from None
    if min(ks) < 1:
        raise UserError(f"--k is {text!r}: every k must be at least 1")
    return ks


def _print_plan(study: Config) -> None:
    from rsgrpo.plan import plan_lines

    typer.echo("\n".join(plan_lines(study)))


def _use_one_thread() -> None:
    """Keep torch on one thread: for tensors as small as these more of them only wait."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    from rsgrpo.tabular import table

    warnings = [warning for row in rows for warning in row.pop("warnings", [])]
    typer.echo(table(rows))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _progress_of(what: str) -> Callable[[int, int], None]:
    """Return a reporter that rewrites one line on a terminal and is silent elsewhere."""

    def report(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{what} {done} of {total}", end=end, file=sys.stderr, flush=True)

    return report


def _end(sentence: str, status: int) -> None:
    print(f"rsgrpo: {sentence}", file=sys.stderr)
    sys.exit(status)
