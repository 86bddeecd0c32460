"""A stage's key names the packages of the environment that runs it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from rsgrpo.errors import UserError
from rsgrpo.fingerprints import package_version, packages_of


def test_package_versions_are_those_of_the_interpreter_that_runs_the_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    assert package_version("torch") == version("torch")
    with packages_of(str(tmp_path / "bin" / "python")):
        assert package_version("torch") is None
    assert package_version("torch") == version("torch")


def test_an_environment_without_this_package_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(UserError, match=r"cannot run stages .*rsgrpo.*: install rsgrpo there"),
        packages_of(str(tmp_path / "bin" / "python")),
    ):
        pass
