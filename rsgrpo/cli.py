"""The command line: verbs only. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsgrpo.analyses import commands as analyses_commands
from rsgrpo.data import commands as data_commands
from rsgrpo.errors import UserError, explain_os_error
from rsgrpo.evaluation import commands as evaluation_commands
from rsgrpo.grading import commands as grading_commands
from rsgrpo.retention_commands import register as register_clean
from rsgrpo.sampling import commands as sampling_commands
from rsgrpo.terminal import (
    ConfigFiles,
    Overrides,
    Root,
    print_rows,
    progress_of,
    use_one_thread,
)
from rsgrpo.tracking import commands as tracking_commands

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
grading_commands.register(app)
sampling_commands.register(app)
evaluation_commands.register(app)
analyses_commands.register(app)
tracking_commands.register(app)
register_clean(app)

# The extra that brings each package that a verb may miss.
EXTRAS = {
    "torch": "torch",
    "math_verify": "grade",
    "transformers": "train",
    "trl": "train",
    "httpx": "server",
    "datasets": "data",
    "datasketch": "data",
    "mlflow": "track",
    "prefect": "orchestrate",
    "psutil": "orchestrate",
    "optuna": "sweep",
    "plotly": "dashboards",
}


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
        use_one_thread()
    trained = trained_run(study, base_policy(study))
    assert trained.training is not None
    begin_study(out, study, run(out, prepared(study)))
    typer.echo(run(out, trained.training))


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
    use_one_thread()
    from rsgrpo.bandit import BETAS, run_bandit

    chosen = [*(betas or ()), *(more_betas or ())] or BETAS
    rows = run_bandit(chosen, range(seeds), pulls, progress=progress_of("bandit: pull"))
    print_rows([row.to_json() for row in rows], as_json)


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
    """Ship what training and evaluation recorded to MLflow; again and again without duplicates."""
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


def _print_plan(study: Config) -> None:
    from rsgrpo.plan import plan_lines

    typer.echo("\n".join(plan_lines(study)))


def _end(sentence: str, status: int) -> None:
    print(f"rsgrpo: {sentence}", file=sys.stderr)
    sys.exit(status)
