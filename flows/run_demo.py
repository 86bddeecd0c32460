"""The demonstration: one base policy, GRPO and RS-GRPO at several betas, measured and shown."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rsgrpo.config import Config
from rsgrpo.processes import Progress, end_process, run_nodes, start_process
from rsgrpo.stages import Node, find, run
from rsgrpo.study import Study, plan_study, prepared
from rsgrpo.tracking.journal import all_shipped, begin_study, end_study

Say = Callable[[str], None]

WORKERS = 2
SENDER_SECONDS = 60.0


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
        analysis = _run_study(config, study, root, ProgressLine(say))
    return publish(root, analysis)


def _run_study(config: Config, study: Study, root: Path, line: ProgressLine) -> Path:
    begin_study(root, config, run(root, prepared(config)))
    with tracked(root):
        first, second = waves(study)
        run_nodes(root, first, WORKERS, line.show, later=second)
        run_nodes(root, second, WORKERS, line.show)
        line.end("analysing: intervals, differences, unique solutions")
        analysis = run(root, study.analysis)
        publish(root, analysis)
        end_study(
            root,
            config,
            scores={one.name: run(root, one.score) for one in study.runs},
            trainings={one.name: run(root, one.training) for one in study.runs if one.training},
            files={"tables": analysis / "tables.json", "figures": root / "report.html"},
        )
    return analysis


def waves(study: Study) -> tuple[list[Node], list[Node]]:
    """Return what may run side by side: the base policy first, then everything that starts at it.

    Trainings come first: the base's evaluation is short and fills the last gap.
    """
    base = [study.base] if isinstance(study.base, Node) else []
    trained = [run.score for run in study.runs if run.training]
    others = [run.score for run in study.runs if not run.training]
    return base, trained + others


@contextmanager
def tracked(root: Path) -> Iterator[None]:
    """Ship spools to MLflow from a process of its own while the body runs, and once more after."""
    ended = root / ".study-ended"
    ended.unlink(missing_ok=True)
    command = [sys.executable, "-m", "rsgrpo.tracking.sender", str(root), "--follow"]
    log = root / "logs" / "sender.log"
    sender = start_process(command, log)
    try:
        yield
        ended.touch()
        _wait(sender, log)
    finally:
        end_process(sender)
        ended.unlink(missing_ok=True)


def publish(root: Path, analysis: Path) -> dict[str, Any]:
    """Write `summary.json` and `report.html` at the root from a finished analysis."""
    from dashboards.report import read_analysis, write_report

    tables, summary = read_analysis(analysis)
    machine = json.loads((root / "environment" / "machine.json").read_text(encoding="utf-8"))
    provenance = {
        "commit": machine["git_commit"] or "not a checkout",
        "analysis": analysis.name,
        "machine": f"{machine['platform']}, {machine['cpus']} processors {machine['gpu']}".strip(),
    }
    write_report(tables, root / "report.html", summary=summary, provenance=provenance)
    shutil.copyfile(analysis / "summary.json", root / "summary.json")
    return summary


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


def _wait(sender: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the sender's last pass; a fault of its own never costs the study."""
    with suppress(subprocess.TimeoutExpired):
        sender.wait(SENDER_SECONDS)
    if sender.returncode != 0:
        print(
            f"MLflow has not got everything yet (see {log}): run the same command again",
            file=sys.stderr,
        )


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
