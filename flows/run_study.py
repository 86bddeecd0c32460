"""A whole study from its data to its report. Who gives the orders differs, nothing else.

`rsgrpo demo` gives them to processes of its own, the flows give them to Prefect.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from rsgrpo.config import Config
from rsgrpo.processes import end_process, start_process
from rsgrpo.stages import finished
from rsgrpo.study import Study
from rsgrpo.tracking.journal import begin_study, end_study
from rsgrpo.tracking.sender import ended_file

SENDER_SECONDS = 60.0

_tracked: set[Path] = set()


class Orders(Protocol):
    """Who has the stages of a study run. Each method returns when its stages are finished."""

    def prepare(self, config: Config) -> Path:
        """Finish the study's data; return its folder."""

    def run_all(self, config: Config, study: Study) -> None:
        """Finish the training and evaluation of every run."""

    def analyse(self, config: Config, study: Study) -> Path:
        """Finish the analysis; return its folder."""


def run_study(
    config: Config, study: Study, root: Path, orders: Orders, tracking_uri: str | None = None
) -> Path:
    """Run a study: data, every run, analysis, report, everything recorded and shipped to MLflow.

    What is finished is reused; stopped or killed at any moment, the next call does the rest.

    Args:
        config: The study's config.
        study: Its nodes.
        root: Where everything goes: stages, spools, `report.html`, `summary.json`.
        orders: Who has the stages run.
        tracking_uri: MLflow server or database; a database in the root by default.

    Returns:
        The analysis's folder.

    Raises:
        UserError: A stage failed; the sentence says which and why.
        OSError: The disk is full or may not be written.
    """
    with recorded(config, orders.prepare(config), root, tracking_uri):
        orders.run_all(config, study)
        analysis = orders.analyse(config, study)
        publish(root, analysis)
        record_results(config, study, root, analysis)
    return analysis


@contextmanager
def recorded(
    config: Config, dataset: Path, root: Path, tracking_uri: str | None = None
) -> Iterator[None]:
    """Record the study and ship what it writes while the body runs."""
    begin_study(root, config, dataset)
    with tracked(root, tracking_uri):
        yield


@contextmanager
def tracked(root: Path, tracking_uri: str | None = None) -> Iterator[None]:
    """Ship spools to MLflow from a process of its own while the body runs, and once more after.

    A root that this process ships already is left to the sender at work.
    """
    if root in _tracked:
        yield
        return
    command = [sys.executable, "-m", "rsgrpo.tracking.sender", str(root), "--follow"]
    command += ["--tracking-uri", tracking_uri] if tracking_uri else []
    ended = ended_file(root, os.getpid())
    ended.unlink(missing_ok=True)
    log = root / "logs" / "sender.log"
    sender = start_process(command, log)
    _tracked.add(root)
    try:
        yield
        ended.touch()
        _wait(sender, log)
    finally:
        _tracked.discard(root)
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


def record_results(config: Config, study: Study, root: Path, analysis: Path) -> None:
    """Record each run's evaluation and the study's tables and report."""
    folders = study_folders(root, study)
    end_study(
        root,
        config,
        scores={name: score for name, (score, _) in folders.items()},
        trainings={name: training for name, (_, training) in folders.items() if training},
        files={"tables": analysis / "tables.json", "figures": root / "report.html"},
    )


def study_folders(root: Path, study: Study) -> dict[str, tuple[Path, Path | None]]:
    """Return the finished score and training folder of each run, by its policy's name."""
    return {
        one.name: (
            finished(root, one.score),
            finished(root, one.training) if one.training else None,
        )
        for one in (*study.runs, *study.rollouts)
    }


def _wait(sender: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the sender's last pass; a fault of its own never costs the study."""
    with suppress(subprocess.TimeoutExpired):
        sender.wait(SENDER_SECONDS)
    if sender.returncode != 0:
        print(
            f"MLflow has not got everything yet (see {log}): run the same command again, or "
            "`rsgrpo sync`",
            file=sys.stderr,
        )
