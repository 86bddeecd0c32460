"""What a run was made with: code version, packages, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import rsgrpo


def environment_snapshot() -> dict[str, str]:
    """Return what is needed to make a run again.

    Returns:
        `python`, `platform`, `cpus`, `gpu`, `git_commit`, `git_diff` (uncommitted changes as a
        patch), `git_untracked` (names of new files) and `pip_freeze`. The git entries are empty
        where the package does not run from a checkout; `gpu` is empty unless torch is loaded
        already and sees one.
    """
    package = Path(rsgrpo.__file__).resolve().parent
    return {
        "python": sys.version.replace("\n", " "),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count() or 0),
        "gpu": _gpu_name(),
        "pip_freeze": _installed_packages(),
        **_code_version(package),
    }


def _gpu_name() -> str:
    # torch takes seconds to import: a process that did not need it should not pay for it here.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    return str(torch.cuda.get_device_name())


def _installed_packages() -> str:
    names = {
        f"{distribution.metadata['Name']}=={distribution.version}"
        for distribution in metadata.distributions()
        if distribution.metadata["Name"]
    }
    return "\n".join(sorted(names, key=str.lower))


def _code_version(package: Path) -> dict[str, str]:
    # A package installed below somebody else's checkout must not report that checkout's commit.
    tracked = _git(package, "ls-files", "__init__.py")
    if not tracked:
        return {"git_commit": "", "git_diff": "", "git_untracked": ""}
    return {
        "git_commit": _git(package, "rev-parse", "HEAD").strip(),
        "git_diff": _git(package, "diff", "--no-color", "--no-ext-diff", "HEAD"),
        "git_untracked": _git(package, "ls-files", "--others", "--exclude-standard", ":/"),
    }


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints, or "" where git, the checkout or its first commit is missing."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
