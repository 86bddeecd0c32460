"""The verb `rsgrpo demo`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

CONFIGS = Path(__file__).parent.parent / "configs"


def register(app: typer.Typer) -> None:
    """Add the verb `demo` to the command line."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of all results.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Base, GRPO, beta 4, one seed.")] = False,
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", "-c", help="Another study as a YAML file (repeatable)."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override: training.steps=20 (repeatable).")
    ] = None,
) -> None:
    """See the paper's effect on a small policy trained from scratch, in minutes, without a GPU."""
    from flows.run_demo import run_demo
    from rsgrpo.config import load_config

    chosen = config or CONFIGS / ("demo_quick.yaml" if quick else "demo.yaml")
    study = load_config(chosen, set_ or ())
    summary = run_demo(study, out, lambda text: print(text, file=sys.stderr, flush=True))
    _show(summary, study.evaluation.headline_k, out)


def _show(summary: dict[str, Any], headline_k: int, out: Path) -> None:
    from rsgrpo.tabular import table

    ks = (1, headline_k)
    rows = [
        {
            "policy": row["policy"],
            "k": row["k"],
            "pass@k": row["pass_at_k"],
            "low": row["low"],
            "high": row["high"],
            "n_samples": row["n_samples"],
            "n_prompts": row["n_prompts"],
        }
        for row in summary["rows"]
        if row["benchmark"] == "mean" and row["k"] in ks
    ]
    store = (out / "mlflow.db").resolve()
    typer.echo(table(rows))
    typer.echo(f"\n{summary['sentence']}\n")
    typer.echo(f"report   {(out / 'report.html').resolve()}")
    mlflow = Path(sys.executable).with_name("mlflow")
    server = f"{mlflow} server --backend-store-uri sqlite:///{store} --port 5000"
    typer.echo(f"MLflow   DO_NOT_TRACK=1 {server}")
