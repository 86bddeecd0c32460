"""What a stage's process says of its progress, as others read it."""

from __future__ import annotations

from pathlib import Path

from rsgrpo.config import Config
from rsgrpo.nodes import Node
from rsgrpo.processes import Child, last_progress


def test_the_last_progress_is_that_of_the_stage_at_work(tmp_path: Path) -> None:
    child = Child(Node("score", "a", Config()), None, tmp_path / "log")  # type: ignore[arg-type]
    child.log.write_text("")
    assert last_progress(child) == "score"
    child.log.write_text("training: step 12 of 100, reward 0.1\n")
    assert last_progress(child) == "training 12%"
    child.log.write_text("training: step 100 of 100\nsampling: 1 of 4\nsomething else\n")
    assert last_progress(child) == "sampling 25%"
