from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: MLflow needs seconds to make one."""
    from mlflow.tracking import MlflowClient

    from rsgrpo.tracking.store import quiet_mlflow

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    with quiet_mlflow():
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def root(tmp_path: Path, empty_database: Path) -> Path:
    """A study's folder with a fresh MLflow database in its usual place."""
    folder = tmp_path / "study"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder
