"""A small policy and problems of two benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsgrpo.config import Config
from rsgrpo.policy.load import save_policy
from rsgrpo.policy.tiny import build_model, build_tokenizer
from rsgrpo.records import Problem


@pytest.fixture(scope="session")
def problems() -> dict[str, list[Problem]]:
    return {
        "easy": [Problem("a", "1 2 3 > 6 :", "6"), Problem("b", "1 2 4 > 7 :", "7")],
        "hard": [Problem("c", "2 3 4 > 24 :", "24")],
    }


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy, whose completions have all lengths up to the limit."""
    folder = tmp_path_factory.mktemp("policy")
    save_policy(build_model(Config().policy), build_tokenizer(), folder)
    return folder
