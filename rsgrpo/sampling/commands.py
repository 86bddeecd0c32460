"""The verb `rsgrpo serve`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from rsgrpo.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(serve)


def serve(
    model: Annotated[str, typer.Argument(help="Policy directory or hub id.")],
    extra: Annotated[
        list[str] | None, typer.Argument(help="More arguments of vLLM, behind --.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the first server.", min=1, max=65535)] = 8000,
    replicas: Annotated[
        int, typer.Option(help="Servers, on ports that follow; each has its own GPUs.", min=1)
    ] = 1,
    python: Annotated[
        Path | None,
        typer.Option(help="Interpreter that has vLLM (else RSGRPO_VLLM, or .venv-vllm)."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")] = "auto",
    wait: Annotated[float, typer.Option(help="Seconds that it may take to be ready.")] = 1800.0,
) -> None:
    """Serve a policy with vLLM on this machine until Ctrl-C; prints the addresses when ready.

    vLLM has an environment of its own: make vllm.
    """
    from rsgrpo.sampling.serve import serving, watch

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with serving(
            model,
            port=port,
            replicas=replicas,
            python=python,
            dtype=dtype,
            extra=extra or (),
            patience=wait,
            report=_waiting(),
        ) as servers:
            _end_line()
            for url in servers.urls:
                typer.echo(url)
            watch(servers, lambda sentence: print(f"warning: {sentence}", file=sys.stderr))
    except UserError:
        _end_line()
        raise
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _waiting() -> Callable[[float], None]:
    """Return a reporter of the seconds waited: one line on a terminal, every 10 s elsewhere."""
    shown = [0]

    def report(seconds: float) -> None:
        if sys.stderr.isatty():
            print(f"\rwaiting for the server: {seconds:.0f} s", end="", file=sys.stderr, flush=True)
        elif seconds >= shown[0]:
            shown[0] += 10
            print(f"waiting for the server: {seconds:.0f} s", file=sys.stderr, flush=True)

    return report


def _end_line() -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
