"""Fixtures that several rooms share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rsgrpo.config import Config, load_config

if TYPE_CHECKING:
    from tests.postgresql import Postgresql

# Small enough that a whole study takes seconds; every stage is the real one.
TINY = [
    "data.prompts_per_tier=2",
    "data.pool_per_tier=8",
    "policy.hidden_size=16",
    "policy.layers=1",
    "policy.heads=2",
    "policy.mlp_size=32",
    "policy.pretrain.steps=60",
    "policy.pretrain.save_every=20",
    "training.steps=4",
    "training.save_every=2",
    "training.histogram_every=2",
    "training.prompts_per_step=8",
    "training.num_generations=8",
    "sampling.n=16",
    "sampling.batch_size=64",
    "evaluation.ks=[1,2,4,8,16]",
    "evaluation.headline_k=4",
    "evaluation.resamples=200",
    "study.risk_betas=[4]",
    "study.seeds=[0]",
]


def pytest_configure() -> None:
    """Hear Ctrl-C, here and in what tests start, also in the background of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def required(name: str) -> bool:
    """Whether a missing `name` must fail rather than skip (RSGRPO_REQUIRE, set in CI)."""
    return name in os.environ.get("RSGRPO_REQUIRE", "").split(",")


def missing(name: str, reason: str) -> None:
    """Skip the test that needs `name`, or fail it where `name` is required."""
    (pytest.fail if required(name) else pytest.skip)(reason)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep verdicts of tests, and of what they start, out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSGRPO_CACHE", str(tmp_path_factory.mktemp("verdicts")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real benchmarks and rollouts that lie beside the checkout."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        missing("shared-data", f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The system's Chromium."""
    for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"):
        if Path(path).exists():
            return path
    missing("browser", "no Chromium on this machine")
    return ""


@pytest.fixture
def postgresql() -> Iterator[Postgresql]:
    """A PostgreSQL server of the test's own, which it may kill and start again."""
    from tests.postgresql import postgresql_server

    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="session")
def shared_postgresql() -> Iterator[Postgresql]:
    """A PostgreSQL server for all tests that leave it alone."""
    from tests.postgresql import postgresql_server

    with postgresql_server() as server:
        yield server


@pytest.fixture
def postgresql_url(shared_postgresql: Postgresql) -> str:
    """The address of an empty PostgreSQL database."""
    return shared_postgresql.new_database()


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """A whole study of the embedded policy that takes seconds."""
    return load_config(None, TINY)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stages that tests share, so that the base policy is trained once."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="session")
def tiny_arguments() -> list[str]:
    """The same study as command-line overrides."""
    return [word for override in TINY for word in ("--set", override)]
