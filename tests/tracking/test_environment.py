from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rsgrpo
from rsgrpo.tracking.environment import environment_snapshot

KEYS = {
    "python",
    "platform",
    "cpus",
    "gpu",
    "git_commit",
    "git_diff",
    "git_untracked",
    "pip_freeze",
}


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's top file that claims to be the package."""
    folder = tmp_path / "checkout" / "rsgrpo"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("first = 1\n")
    monkeypatch.setattr(rsgrpo, "__file__", str(folder / "__init__.py"))
    return folder


def test_a_checkout_gives_commit_changes_and_new_files(package: Path) -> None:
    _git(package.parent, "init", "-q")
    _git(package.parent, "add", ".")
    _git(package.parent, "commit", "-qm", "one")
    clean = environment_snapshot()
    assert (clean["git_diff"], clean["git_untracked"]) == ("", "")
    (package / "__init__.py").write_text("second = 2\n")
    (package / "new.py").write_text("")
    snapshot = environment_snapshot()
    assert snapshot["git_commit"] == _git(package, "rev-parse", "HEAD").strip()
    assert "-first = 1\n+second = 2\n" in snapshot["git_diff"]
    assert snapshot["git_untracked"].strip().endswith("new.py")


def test_outside_a_checkout_the_git_entries_are_empty(package: Path) -> None:
    snapshot = environment_snapshot()
    assert set(snapshot) == KEYS
    assert snapshot["git_commit"] == snapshot["git_diff"] == snapshot["git_untracked"] == ""


def test_a_package_installed_below_another_checkout_has_no_commit(package: Path) -> None:
    other = package.parent
    (other / ".gitignore").write_text("rsgrpo\n")
    _git(other, "init", "-q")
    _git(other, "add", ".gitignore")
    _git(other, "commit", "-qm", "other")
    assert environment_snapshot()["git_commit"] == ""


def test_a_machine_without_git_is_no_fault(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    monkeypatch.setenv("PATH", "")
    assert shutil.which("git") is None
    assert environment_snapshot()["git_commit"] == ""


def test_installed_packages_are_pinned_and_sorted() -> None:
    lines = environment_snapshot()["pip_freeze"].splitlines()
    assert lines == sorted(lines, key=str.lower)
    assert f"pytest=={pytest.__version__}" in lines


def test_the_snapshot_does_not_import_torch() -> None:
    code = (
        "import sys; from rsgrpo.tracking.environment import environment_snapshot as s\n"
        "assert s()['gpu'] == '' and 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
