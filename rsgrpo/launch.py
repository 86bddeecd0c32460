"""How a stage's process is started: by which interpreter, through which launcher.

A launcher starts the same module in several processes (ranks) that train together. Each command
ends with the process that asked for it, launcher and ranks included.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rsgrpo.errors import UserError, unknown

_ACCELERATE_DEFAULTS = Path(__file__).parent / "accelerate.yaml"


class Launch(NamedTuple):
    """An interpreter, and the launcher that it starts training with: a name in `LAUNCHERS`."""

    python: str = sys.executable
    launcher: str = "python"


def _plain(python: str, processes: int) -> list[str]:
    if processes > 1:
        raise UserError(
            f"training.processes is {processes}, but the launcher python starts one process: "
            "choose torchrun or accelerate, or set training.processes to 1"
        )
    return [python]


def _torchrun(python: str, processes: int) -> list[str]:
    options = ["--standalone", f"--nproc_per_node={processes}"]
    return [python, "-m", "torch.distributed.run", *options]


def _accelerate(python: str, processes: int) -> list[str]:
    options = ["--config_file", str(_ACCELERATE_DEFAULTS), "--num_processes", str(processes)]
    return [python, "-m", "accelerate.commands.launch", *options]


# Each gives the words that `-m MODULE ARGUMENTS...` follows, for an interpreter and ranks.
LAUNCHERS: dict[str, Callable[[str, int], list[str]]] = {
    "python": _plain,
    "torchrun": _torchrun,
    "accelerate": _accelerate,
}


def stage_command(
    root: Path, node_file: Path, launch: Launch, processes: int, parent: int, wait: bool
) -> list[str]:
    """Return the command line that runs the node of a file.

    Args:
        root: The folder of all stages' folders.
        node_file: A node written by `node_to_json`.
        launch: Interpreter and launcher.
        processes: Ranks that run the stage together.
        parent: Process id of the process that the command ends with.
        wait: Wait where another process runs the stage, rather than refuse.

    Raises:
        UserError: The launcher is unknown, or cannot start that many processes.
    """
    if launch.launcher not in LAUNCHERS:
        raise UserError(unknown("launcher", launch.launcher, list(LAUNCHERS)))
    lifeline = [launch.python, "-m", "rsgrpo.lifeline", str(parent)]
    ranks = LAUNCHERS[launch.launcher](launch.python, processes)
    stage = ["-m", "rsgrpo.stages", str(root), str(node_file), *(["--wait"] if wait else [])]
    return [*lifeline, *ranks, *stage]
