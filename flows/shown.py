"""What a flow shows in Prefect: progress, tables, links, text. Showing never stops the work."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

EVERY_SECONDS = 5.0


class ProgressArtifact:
    """A progress bar of one stage, drawn every few seconds at most."""

    def __init__(self, description: str) -> None:
        """Draw nothing yet: most stages that are reused or short need no bar."""
        self._description = description
        self._id: Any = None
        self._due = time.monotonic() + EVERY_SECONDS

    def update(self, share_done: Callable[[], float]) -> None:
        """Draw the share that is done, in [0, 1], when it is time to."""
        if time.monotonic() >= self._due:
            self._draw(100 * share_done())
            self._due = time.monotonic() + EVERY_SECONDS

    def end(self) -> None:
        """Fill the bar, where there is one."""
        if self._id:
            self._draw(100.0)

    def _draw(self, percent: float) -> None:
        if self._id:
            shown(update_progress_artifact, self._id, progress=percent)
        else:
            self._id = shown(
                create_progress_artifact, progress=percent, description=self._description
            )


def show_study(summary: dict[str, Any], name: str, headline_k: int, links: dict[str, str]) -> None:
    """Show a study's table, its sentence and where its runs and report are.

    Args:
        summary: The content of `summary.json`.
        name: The study's name.
        headline_k: The k shown beside 1.
        links: URL of each thing to open, by its text.
    """
    key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    rows = [
        {
            "policy": row["policy"],
            "k": row["k"],
            "pass@k": row["pass_at_k"],
            "95% interval": f"[{row['low']:.3f}, {row['high']:.3f}]",
            "samples": row["n_samples"],
            "prompts": row["n_prompts"],
            "seed": row["seed"],
        }
        for row in overall(summary["rows"])
        if row["k"] in (1, headline_k) and row["pass_at_k"] is not None
    ]
    shown(create_table_artifact, table=rows, key=f"{key}-pass-at-k")
    shown(create_markdown_artifact, markdown=summary["sentence"], key=f"{key}-headline")
    for text, link in links.items():
        shown(create_link_artifact, link=link, link_text=text, key=f"{key}-{text.lower()}")


def overall(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the mean over benchmarks, or of the only benchmark."""
    last = rows[-1]["benchmark"]
    return [row for row in rows if row["benchmark"] == last]


def shown(create: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Create an artifact; where Prefect does not take it, say so in the log and go on."""
    try:
        return create(*args, **kwargs)
    except MissingContextError:  # called outside a flow
        return None
    except Exception as fault:
        reason = str(fault).strip().splitlines()
        get_run_logger().warning("Prefect did not take %s: %s", create.__name__, reason[:1])
        return None
