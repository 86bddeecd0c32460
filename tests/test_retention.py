from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rsgrpo import retention
from rsgrpo.cli import app
from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.nodes import Node
from rsgrpo.retention import DAY, find_leftovers, remove
from rsgrpo.stages import find, folder_of, run
from rsgrpo.tracking.spool import Spool

KEY = "0123456789ab"
NEVER = 4_000_000_000  # no process has this id


def age(path: Path, days: float) -> None:
    """Set the last change of a path, and of all below it, some days back."""
    then = time.time() - days * DAY
    for file in [path, *path.rglob("*")]:
        os.utime(file, (then, then), follow_symlinks=False)


def unfinished(root: Path, name: str, stage: str = "sample", days: float = 40) -> Path:
    """Make what a killed stage leaves: its lock, a checkpoint, half an output."""
    folder = root / stage / f"{name}-{KEY}"
    (folder / ".work" / "checkpoint-2").mkdir(parents=True)
    (folder / ".lock").write_text("4711")
    (folder / ".work" / "checkpoint-2" / "weights").write_bytes(b"w" * 1000)
    (folder / "part-0.parquet").write_bytes(b"p" * 100)
    age(folder, days)
    return folder


def files(folder: Path) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if not f.is_dir()}


def found(root: Path, keep_days: float = 30) -> dict[str, str]:
    return {
        str(leftover.path.relative_to(root)): leftover.what
        for leftover in find_leftovers(root, keep_days)
    }


def clean(root: Path, keep_days: float = 30) -> retention.Removal:
    return remove(find_leftovers(root, keep_days), keep_days)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a stage's lock as a process of its own does."""
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "study"


def test_an_unfinished_stage_that_nobody_holds_is_listed_with_its_size_and_age(root: Path) -> None:
    folder = unfinished(root, "base")
    (leftover,) = find_leftovers(root, 30)
    assert leftover.path == folder and leftover.what == "unfinished stage"
    assert leftover.bytes >= 1100
    assert leftover.age == pytest.approx(40 * DAY, abs=60)
    assert clean(root).removed == (leftover._replace(age=pytest.approx(40 * DAY, abs=60)),)
    assert files(folder) == {".lock"}
    assert found(root) == {}


def test_what_has_changed_within_the_days_to_keep_stays(root: Path) -> None:
    fresh = unfinished(root, "fresh", days=29)
    touched = unfinished(root, "touched")
    (touched / ".work" / "checkpoint-2" / "weights").write_bytes(b"new")
    old = unfinished(root, "old", days=31)
    assert found(root) == {f"sample/{old.name}": "unfinished stage"}
    assert found(root, 10).keys() == {f"sample/{name.name}" for name in (fresh, old)}


def test_a_stage_whose_lock_is_held_stays(root: Path) -> None:
    folder = unfinished(root, "base")
    before = files(folder)
    listed = find_leftovers(root, 30)
    with held(folder):
        assert found(root) == {}
        assert remove(listed, 30).in_use == tuple(listed)
    assert files(folder) == before
    assert remove(listed, 30).in_use == ()


def test_a_stage_that_somebody_went_on_with_after_the_listing_stays(root: Path) -> None:
    folder = unfinished(root, "base")
    listed = find_leftovers(root, 30)
    (folder / ".work" / "checkpoint-4").mkdir()
    assert remove(listed, 30).in_use == tuple(listed)
    assert (folder / "part-0.parquet").exists()


def test_a_stage_cannot_begin_while_its_leftovers_are_removed(
    root: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node("prepare", "data", tiny_config, {})
    folder = folder_of(root, node)
    assert folder is not None
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "half.jsonl").write_text("{")
    age(folder, 40)
    real = retention._delete

    def delete(path: Path) -> None:
        with pytest.raises(UserError, match="another process is running stage prepare"):
            run(root, node)
        real(path)

    monkeypatch.setattr(retention, "_delete", delete)
    assert len(clean(root).removed) == 1
    monkeypatch.undo()
    assert run(root, node) == folder and find(root, node)


def test_finished_stages_spools_studies_and_databases_stay(root: Path, tiny_config: Config) -> None:
    node = Node("prepare", "data", tiny_config, {})
    run(root, node)
    damaged = unfinished(root, "damaged", "train")
    (damaged / "manifest.json").write_text("{torn")
    for name in ("mlflow.db", "optuna.db", "summary.json", "report.html", ".root-id", ".sync.json"):
        (root / name).write_text("x")
    (root / "environment").mkdir()
    (root / "mlartifacts" / "run" / "artifacts").mkdir(parents=True)
    (root / "mlartifacts" / "run" / "artifacts" / "old.log").write_text("x")
    (root / "sweeps" / "s" / "leases").mkdir(parents=True)
    (root / "sweeps" / "s" / "attempts.jsonl").write_text("{}")
    (root / "train" / "notes").mkdir()
    with Spool(root / "spool.jsonl", "study") as spool:
        spool.start("study", "study")
    age(root, 1000)
    before = files(root)
    assert find_leftovers(root, 1) == []
    assert files(root) == before


def test_of_an_abandoned_training_its_spool_and_what_that_names_stay(root: Path) -> None:
    folder = unfinished(root, "grpo-seed0", "train")
    (folder / "environment").mkdir()
    (folder / "environment" / "config.yaml").write_text("seed: 0")
    with Spool(folder / "spool.jsonl", "grpo-seed0") as spool:
        spool.start("grpo-seed0", "demo")
        spool.artifact(folder / "environment" / "config.yaml", "environment")
    (folder / ".work" / "deeper").mkdir()
    age(folder, 40)
    (leftover,) = clean(root).removed
    assert 1100 <= leftover.bytes < 30_000
    assert files(folder) == {".lock", "spool.jsonl", "environment/config.yaml"}
    age(folder, 40)
    assert found(root) == {}


def test_old_logs_and_node_files_go_and_new_ones_stay(root: Path) -> None:
    logs = root / "logs"
    logs.mkdir(parents=True)
    (root / ".root-id").write_text("x")
    for name in ("a-train-1.log", "a-train-1.node.json", "sender.log", "notes.txt"):
        (logs / name).write_text("x" * 10)
    (logs / "kept").mkdir()
    age(logs, 31)
    (logs / "new.log").write_text("x")
    assert found(root) == {
        "logs/a-train-1.log": "process log",
        "logs/a-train-1.node.json": "node file",
        "logs/sender.log": "process log",
    }
    clean(root)
    assert files(logs) == {"notes.txt", "new.log"}


def test_marks_and_leases_of_dead_processes_go_and_those_of_living_ones_stay(root: Path) -> None:
    leases = root / "sweeps" / "study" / "leases"
    leases.mkdir(parents=True)
    here = platform.node()
    for name, host, pid in [
        ("trial-0", here, NEVER), ("trial-1", here, os.getpid()), ("unit-1-0", "elsewhere", 1),
    ]:  # fmt: skip
        (root / f".ended-{host}-{pid}").touch()
        holder = {"host": host, "pid": pid, "started": 1, "boot": "b", "space": "s"}
        (leases / f"{name}.json").write_text(json.dumps({"token": "t", "holder": holder}))
    (leases / "torn.json").write_text("{")
    age(root, 40)
    (leases / "unit-2-0.json").write_text("{}")
    assert found(root) == {
        f".ended-{here}-{NEVER}": "mark",
        ".ended-elsewhere-1": "mark",
        "sweeps/study/leases/trial-0.json": "lease",
        "sweeps/study/leases/unit-1-0.json": "lease",
        "sweeps/study/leases/torn.json": "lease",
    }
    clean(root)
    assert files(leases) == {"trial-1.json", "unit-2-0.json"}
    assert (root / f".ended-{here}-{os.getpid()}").exists()


def test_links_are_never_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    kept = unfinished(outside, "treasure")
    (outside / "logs").mkdir()
    (outside / "logs" / "old.log").write_text("x")
    age(outside, 40)
    before = files(outside)
    folder = unfinished(root, "base")
    (folder / "link-to-folder").symlink_to(outside)
    (folder / ".work" / "link-to-file").symlink_to(kept / "part-0.parquet")
    (folder / "dangling").symlink_to(tmp_path / "gone")
    (root / "sample" / f"linked-{KEY}").symlink_to(kept)
    (root / "train").symlink_to(outside / "sample")
    (root / "logs").symlink_to(outside / "logs")
    age(root, 40)
    assert found(root) == {f"sample/base-{KEY}": "unfinished stage"}
    clean(root)
    assert files(folder) == {".lock"}
    assert files(outside) == before


def test_a_lock_that_is_a_link_is_nobodys_to_take(root: Path, tmp_path: Path) -> None:
    folder = unfinished(root, "base")
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(tmp_path / "elsewhere")
    age(folder, 40)
    assert found(root) == {}
    assert not (tmp_path / "elsewhere").exists()


def test_what_vanishes_meanwhile_is_no_fault(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished(root, "base")
    (root / "logs").mkdir()
    (root / "logs" / "old.log").write_text("x")
    age(root, 40)
    listed = find_leftovers(root, 30)
    real = shutil.rmtree

    def rmtree(path: Path, *values: Any, **named: Any) -> None:
        if (path / "checkpoint-2").exists():
            real(path / "checkpoint-2")  # another clean at the same time
            raise FileNotFoundError(2, "gone", str(path / "checkpoint-2"))
        real(path, *values, **named)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    (root / "logs" / "old.log").unlink()
    outcome = remove(listed, 30)
    assert (len(outcome.removed), outcome.in_use, outcome.refused) == (2, (), ())
    assert files(folder) == {".lock"}
    shutil.rmtree(folder)
    assert remove(listed, 30).refused == ()


def test_read_only_files_go_and_what_the_system_refuses_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unfinished(root, "base")
    (folder / "part-0.parquet").chmod(0o444)
    (root / "logs").mkdir()
    for name in ("a.log", "b.log"):
        (root / "logs" / name).write_text("x")
    age(root, 40)
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == "a.log":
            raise PermissionError(13, "Permission denied", str(path))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    done = CliRunner().invoke(app, ["clean", str(root), "--yes"])
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith("1 could not be removed (")
    assert "a.log: Permission denied" in str(done.exception)
    assert files(folder) == {".lock"}
    assert files(root / "logs") == {"a.log"}


@pytest.mark.parametrize("kind", ["missing", "file", "home", "stage"])
def test_a_folder_that_is_no_output_root_is_refused(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("x")
    elif kind == "home":
        (place / "logs").mkdir(parents=True)
        (place / "logs" / "old.log").write_text("x")
        (place / "train" / "my-data").mkdir(parents=True)
        age(place, 400)
    elif kind == "stage":
        place = unfinished(tmp_path / "root", "base", "train")
        with Spool(place / "spool.jsonl", "r") as spool:
            spool.start("r", "demo")
    done = CliRunner().invoke(app, ["clean", str(place), "--yes", "--keep-days", "1"])
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith(f"{place} is no output folder of rsgrpo")
    assert not place.is_dir() or files(place)


def test_nothing_is_removed_by_a_dry_run_nor_without_a_yes(root: Path) -> None:
    folder = unfinished(root, "base")
    before = files(folder)
    for words, answer in [(["--dry-run"], "y\n"), ([], "n\n"), ([], "\n"), ([], "")]:
        done = CliRunner().invoke(app, ["clean", str(root), *words], input=answer)
        assert f"sample/base-{KEY}" in done.stdout
        assert "could be removed: 1 unfinished stage: 0.0 MB" in done.stdout
        assert files(folder) == before
    done = CliRunner().invoke(app, ["clean", str(root)], input="y\n")
    assert done.exit_code == 0 and "removed: 1 unfinished stage: 0.0 MB" in done.stdout
    assert files(folder) == {".lock"}
    assert CliRunner().invoke(app, ["clean", str(root)]).stdout == "could be removed: nothing\n"


def test_the_list_comes_as_json_and_days_below_one_are_refused(root: Path) -> None:
    unfinished(root, "base")
    done = CliRunner().invoke(app, ["clean", str(root), "--dry-run", "--json"])
    (row,) = json.loads(done.stdout)
    assert row["path"] == f"sample/base-{KEY}" and row["age_days"] == 40.0
    assert CliRunner().invoke(app, ["clean", str(root), "--keep-days", "0"]).exit_code == 2


def test_a_lock_held_by_another_process_is_seen(root: Path) -> None:
    folder = unfinished(root, "base")
    code = (
        "import fcntl, sys\n"
        "lock = open(sys.argv[1], 'a')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    assert found(root) == {}
    child.kill()
    child.wait()
    assert found(root) == {f"sample/base-{KEY}": "unfinished stage"}
