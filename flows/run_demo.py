"""The demonstration: one base policy, GRPO and RS-GRPO at several betas, measured and shown."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.run_study import publish, run_study
from rsgrpo.config import Config
from rsgrpo.nodes import Node
from rsgrpo.processes import Progress, run_nodes
from rsgrpo.stages import find, run
from rsgrpo.study import Study, plan_study, prepared
from rsgrpo.tracking.journal import all_shipped

Say = Callable[[str], None]

WORKERS = 2


def run_demo(config: Config, root: Path, say: Say) -> dict[str, Any]:
    """Run a study of the embedded policy in processes, two at a time, and write its report.

    What is finished is reused; stopped or killed at any moment, the next call does the rest.

    Args:
        config: The study.
        root: Where everything goes: stages, tracking store, `report.html`, `summary.json`.
        say: Takes each line for the user.

    Returns:
        The content of `summary.json`.

    Raises:
        UserError: A stage failed; the sentence says which and why.
        OSError: The disk is full or may not be written.
    """
    study = plan_study(config)
    root.mkdir(parents=True, exist_ok=True)
    analysis = find(root, study.analysis)
    if analysis is None or not all_shipped(root):
        analysis = run_study(config, study, root, OwnProcesses(root, ProgressLine(say)))
    return publish(root, analysis)


class OwnProcesses:
    """Has stages run in processes of this one, two at a time."""

    def __init__(self, root: Path, line: ProgressLine) -> None:
        """Take the output root and the line that shows progress."""
        self._root = root
        self._line = line

    def prepare(self, config: Config) -> Path:
        """Finish the study's data; return its folder."""
        return run(self._root, prepared(config))

    def run_all(self, config: Config, study: Study) -> None:
        """Finish every run, the base policy first."""
        first, second = waves(study)
        run_nodes(self._root, first, WORKERS, self._line.show, later=second)
        run_nodes(self._root, second, WORKERS, self._line.show)

    def analyse(self, config: Config, study: Study) -> Path:
        """Finish the analysis; return its folder."""
        self._line.end("analysing: intervals, differences, unique solutions")
        return run(self._root, study.analysis)


def waves(study: Study) -> tuple[list[Node], list[Node]]:
    """Return what may run side by side: the base policy first, then everything that starts at it.

    Trainings come first: the base's evaluation is short and fills the last gap.
    """
    base = [study.base] if isinstance(study.base, Node) else []
    trained = [run.score for run in study.runs if run.training]
    others = [run.score for run in (*study.runs, *study.rollouts) if not run.training]
    return base, trained + others


class ProgressLine:
    """One line that is rewritten on a terminal, and a line now and then in a log."""

    def __init__(self, say: Say, every_seconds: float = 15.0) -> None:
        """Take where lines go; without a terminal one is written each `every_seconds`."""
        self._say = say
        self._every = 0.5 if sys.stderr.isatty() else every_seconds
        self._began = self._shown = time.monotonic()

    def show(self, progress: Progress) -> None:
        """Show what runs and the time left, where it is time to."""
        now = time.monotonic()
        if now - self._shown < self._every:
            return
        self._shown = now
        text = (
            f"{_clock(now - self._began)} gone, about "
            f"{_clock(progress.seconds_left)} left  {', '.join(progress.running)}"
        )
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:<{width}}", end="", file=sys.stderr, flush=True)
        else:
            self._say(text)

    def end(self, text: str) -> None:
        """Leave the line and say what follows."""
        if sys.stderr.isatty():
            print(file=sys.stderr)
        self._say(text)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
