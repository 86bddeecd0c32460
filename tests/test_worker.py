"""What flows may name, and what a worker's table makes of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from rsgrpo.errors import UserError
from rsgrpo.worker import Execution, resolve


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker's table with two roots, in a folder of its own."""
    (tmp_path / "python").symlink_to(sys.executable)
    file = tmp_path / "table.yaml"
    file.write_text(
        "roots: {default: results, fast: /fast/disk}\n"
        "environments: {default: python, gone: /nowhere/python}\n"
        "tracking_uri: http://127.0.0.1:5001\n"
    )
    monkeypatch.setenv("RSGRPO_WORKER", str(file))
    return file


def test_names_are_resolved_in_the_workers_table(table: Path) -> None:
    place = resolve(Execution(root="fast", launcher="torchrun"))
    assert place.root == Path("/fast/disk")
    assert place.launch.python == str(table.parent / "python")
    assert place.launch.launcher == "torchrun"
    assert place.tracking_uri == "http://127.0.0.1:5001"
    assert resolve(Execution()).root == table.parent / "results"


def test_without_a_table_there_are_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RSGRPO_WORKER", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5002")
    monkeypatch.chdir(tmp_path)
    place = resolve(Execution())
    assert place.root == tmp_path / "runs" / "flows"
    assert place.launch.python == sys.executable
    assert place.tracking_uri == "http://127.0.0.1:5002"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"root": "fsat"}, "unknown root 'fsat': did you mean fast?"),
        ({"root": "/tmp"}, "unknown root '/tmp'"),
        ({"environment": "/bin/sh"}, "unknown environment '/bin/sh'"),
        ({"environment": "gone"}, "/nowhere/python: no file"),
    ],
)
def test_what_the_table_does_not_hold_is_refused(
    table: Path, named: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError) as fault:
        resolve(Execution(**named))
    assert words in str(fault.value)


def test_a_launcher_is_one_of_three_names() -> None:
    with pytest.raises(ValidationError):
        Execution(launcher="sh -c evil")


@pytest.mark.parametrize("text", ["roots: [", "roots: 3", "root: {default: x}", "- a"])
def test_a_malformed_table_is_one_sentence(table: Path, text: str) -> None:
    table.write_text(text)
    with pytest.raises(UserError, match="malformed") as fault:
        resolve(Execution())
    assert "\n" not in str(fault.value)


def test_a_named_table_that_is_missing_is_one_sentence(table: Path) -> None:
    table.unlink()
    with pytest.raises(UserError, match=r"RSGRPO_WORKER names .*table.yaml, which does not exist"):
        resolve(Execution())
