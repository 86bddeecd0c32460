"""The verbs of the flows and their services. Nothing heavy is imported before one runs."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsgrpo.errors import UserError

if TYPE_CHECKING:
    from rsgrpo.worker import Execution

ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", help="Study as YAML files; later ones win."),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override: training.steps=20 (repeatable).")
]
Root = Annotated[str, typer.Option("--root", help="Output root, a name of the worker's table.")]
Environment = Annotated[
    str, typer.Option(help="The trainer's environment, a name of the worker's table.")
]
Launcher = Annotated[str, typer.Option(help="python, torchrun or accelerate.")]
AtOnce = Annotated[int, typer.Option("--at-once", help="Units under way at a time.", min=1)]
Deployments = Annotated[bool, typer.Option("--deployments", help="Have workers take the units.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan, run nothing.")]
Home = Annotated[Path, typer.Option("--home", help="Folder of their databases and logs.")]
PrefectPort = Annotated[int, typer.Option("--prefect-port", help="Port of the Prefect server.")]
MlflowPort = Annotated[int, typer.Option("--mlflow-port", help="Port of the MLflow server.")]

HOME = Path("runs/services")


def register_pipeline(app: typer.Typer) -> None:
    """Add the verb `pipeline` to the command line."""
    app.command("pipeline")(pipeline)


def register_beta_sweep(app: typer.Typer) -> None:
    """Add the verb `beta-sweep` to the command line."""
    app.command("beta-sweep")(beta_sweep)


def register_up(app: typer.Typer) -> None:
    """Add the verb `up` to the command line."""
    app.command("up")(up)


def register_doctor(app: typer.Typer) -> None:
    """Add the verb `doctor` to the command line."""
    app.command("doctor")(doctor)


def pipeline(
    config: ConfigFiles = None,
    set_: Overrides = None,
    root: Root = "default",
    environment: Environment = "default",
    launcher: Launcher = "python",
    at_once: AtOnce = 1,
    deployments: Deployments = False,
    dry_run: DryRun = False,
) -> None:
    """Run a whole study through Prefect: data, base, GRPO and each beta with each seed, report."""
    names = _names(root, environment, launcher, at_once, deployments)
    _run_flow("pipeline", config, set_, names, dry_run)


def beta_sweep(
    config: ConfigFiles = None,
    set_: Overrides = None,
    root: Root = "default",
    environment: Environment = "default",
    launcher: Launcher = "python",
    at_once: AtOnce = 1,
    deployments: Deployments = False,
    dry_run: DryRun = False,
) -> None:
    """Sweep beta through Prefect as an Optuna study, then the report; what is trained is reused."""
    names = _names(root, environment, launcher, at_once, deployments)
    _run_flow("beta_sweep", config, set_, names, dry_run)


def up(
    workers: Annotated[int, typer.Option(help="Workers that take units.", min=1)] = 1,
    home: Home = HOME,
    prefect_port: PrefectPort = 4200,
    mlflow_port: MlflowPort = 5000,
) -> None:
    """Start Prefect server, MLflow server and workers on this machine; Ctrl-C ends them all."""
    _need("prefect", "mlflow")
    import signal

    from flows.services import keep_running, service_environment, services

    # Everything is ended by each, Ctrl-C too where a shell has its background jobs ignore it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    home = home.absolute()
    with services(home, workers, prefect_port, mlflow_port, _say) as (at, running):
        for service in running[2:]:
            _say(f"worker {service.name} takes flow runs, log {service.log}")
        _say(f"\nPrefect  {at.prefect_ui}\nMLflow   {at.mlflow}\nlogs     {home / 'logs'}\n")
        _say("next, in another terminal: prefect deploy --all")
        _say(f"for runs outside the workers: export MLFLOW_TRACKING_URI={at.mlflow}")
        if prefect_port != 4200:
            _say(f"with: export PREFECT_API_URL={at.prefect_api}")
        _say("Ctrl-C ends everything")
        keep_running(running, service_environment(home, at), _say)


def doctor(
    root: Annotated[Path, typer.Option(help="The output root's folder.")] = Path("runs/flows"),
    home: Home = HOME,
    prefect_port: PrefectPort = 4200,
    mlflow_port: MlflowPort = 5000,
) -> None:
    """Check versions, ports, GPU, disk and stores, and say what to do; status 1 if anything is."""
    from flows.doctor import examine

    ill = 0
    for check in examine(root, home, prefect_port, mlflow_port):
        typer.echo(f"{'ok  ' if check.well else 'FAIL'} {check.name}: {check.found}")
        if not check.well:
            typer.echo(f"     -> {check.advice}")
            ill += 1
    if ill:
        raise typer.Exit(1)


def _say(line: str) -> None:
    print(line, flush=True)


def _run_flow(
    name: str,
    config: list[Path] | None,
    overrides: list[str] | None,
    names: dict[str, Any],
    dry_run: bool,
) -> None:
    from rsgrpo.config import load_config

    study = load_config(config, overrides or ())
    if dry_run:
        from rsgrpo.plan import plan_lines

        typer.echo("\n".join(plan_lines(study)))
        return
    execution = _execution(names)
    need_prefect()
    _need("optuna")
    if not study.policy.checkpoint:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    typer.echo(flow(study, execution))


def need_prefect() -> None:
    """Refuse to go on without Prefect and a server that answers; nothing of it phones home.

    Raises:
        UserError: No server answers.
    """
    from flows.services import SILENT

    for variable, value in (*SILENT.items(), ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")):
        os.environ.setdefault(variable, value)
    _need("prefect")
    _need_server()


def execution_of(
    root: str, environment: str, launcher: str, at_once: int, deployments: bool
) -> Execution:
    """Return where and how units run, by names that this worker's table holds.

    Raises:
        UserError: It does not hold one.
    """
    return _execution(_names(root, environment, launcher, at_once, deployments))


def _execution(names: dict[str, Any]) -> Execution:
    """Return an execution whose names this worker's table holds, before anything runs."""
    from pydantic import ValidationError

    from rsgrpo.worker import Execution, resolve

    try:
        execution = Execution(**names)
    except ValidationError as fault:
        raise UserError(f"--launcher: {fault.errors()[0]['msg']}") from None
    resolve(execution)
    return execution


def _names(
    root: str, environment: str, launcher: str, at_once: int, deployments: bool
) -> dict[str, Any]:
    return {
        "root": root,
        "environment": environment,
        "launcher": launcher,
        "at_once": at_once,
        "units": "deployments" if deployments else "here",
    }


def _need(*packages: str) -> None:
    for package in packages:
        importlib.import_module(package)


def _need_server() -> None:
    """Refuse a Prefect server that does not answer, before Prefect tries for minutes."""
    from prefect.settings import get_current_settings

    from flows.services import answers

    url = get_current_settings().api.url
    if url and not answers(f"{url}/health"):
        raise UserError(
            f"no Prefect server answers at {url}: start one with `rsgrpo up`, or name another in "
            "PREFECT_API_URL"
        )
