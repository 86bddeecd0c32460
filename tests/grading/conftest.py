"""Every test of the grader begins without remembered verdicts."""

import pytest


@pytest.fixture(autouse=True)
def empty_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a folder of the test's own; processes that it starts use it, too."""
    monkeypatch.setenv("RSGRPO_CACHE", str(tmp_path_factory.mktemp("verdicts")))
