"""Runs that were really made to fail, each by another fault, and one that is healthy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsgrpo.analyses.diagnosis import Finding, diagnose
from rsgrpo.analyses.places import counts_of, read_log, read_score
from rsgrpo.config import load_config
from rsgrpo.stages import finished, run
from rsgrpo.study import Study, base_policy, plan_study, trained_run
from tests.conftest import TINY

MODULE = """
def brief(completions, problem, answer, **columns):
    return [float(len(text) < 3) for text in completions]


def huge(completions, problem, answer, **columns):
    return [1e30 * len(text) for text in completions]
"""
# A base that solves a quarter of the prompts, so that sharpening it has something to win and lose.
ABLE = [
    *TINY,
    "data.prompts_per_tier=30",
    "data.pool_per_tier=200",
    "policy.hidden_size=64",
    "policy.layers=2",
    "policy.mlp_size=128",
    "policy.pretrain.steps=1000",
    "policy.pretrain.save_every=1000",
    "training.steps=100",
    "training.prompts_per_step=24",
    "training.num_generations=16",
    "training.save_every=100",
    "training.histogram_every=100",
    "sampling.n=64",
    "sampling.batch_size=960",
    "evaluation.headline_k=16",
    "study.risk_betas=[8]",
]


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An installed distribution that registers two rewards."""
    site = tmp_path_factory.mktemp("site")
    metadata = site / "spoilt_rewards-1.0.dist-info"
    metadata.mkdir()
    identity = ("Metadata-Version: 2.1", "Name: spoilt-rewards", "Version: 1.0", "")
    (metadata / "METADATA").write_text("\n".join(identity))
    names = "".join(f"{name} = spoilt_rewards:{name}\n" for name in ("brief", "huge"))
    (metadata / "entry_points.txt").write_text(f"[rsgrpo.rewards]\n{names}")
    (site / "spoilt_rewards.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(site))
        yield


def trained(root: Path, **training: Any) -> list[Finding]:
    """Train the tiny policy with a reward of one's own and diagnose its log."""
    settings = {"minibatches": 1, "dynamic_sampling": "off", "save_every": 100, **training}
    config = load_config(None, [*TINY, *(f"training.{k}={v}" for k, v in settings.items())])
    node = trained_run(config, base_policy(config)).training
    assert node is not None
    return diagnose(read_log(run(root, node) / "spool.jsonl"))


def test_a_policy_trained_far_too_fast_collapses(rewards: None, tiny_root: Path) -> None:
    entropy, gradient, _ = trained(tiny_root, reward="brief", learning_rate=0.02, steps=40)
    assert (entropy.found, gradient.found) == ("yes", "no")
    assert entropy.low <= entropy.value <= entropy.high < 0.05
    assert "below it since step" in entropy.evidence


def test_rewards_of_1e30_overflow_the_gradient(rewards: None, tiny_root: Path) -> None:
    overflow = {"reward": "huge", "advantage.name": "dr_grpo", "steps": 10}
    entropy, gradient, _ = trained(tiny_root, **overflow)
    assert (entropy.found, gradient.found) == ("no", "yes")
    assert gradient.value == 1.0
    assert "grad_norm overflowed in 10 steps, first in step 1" in gradient.evidence
    assert "mean_abs_advantage overflowed in 10 steps, first in step 1" in gradient.evidence


def test_the_risk_sensitive_advantage_survives_the_same_rewards(
    rewards: None, tiny_root: Path
) -> None:
    _, gradient, _ = trained(tiny_root, reward="huge", steps=10)
    assert gradient.found == "no" and gradient.value == 0.0


def test_a_slowly_trained_policy_shows_neither(rewards: None, tiny_root: Path) -> None:
    entropy, gradient, _ = trained(tiny_root, reward="brief", learning_rate=0.0005, steps=20)
    assert (entropy.found, gradient.found) == ("no", "no")
    assert entropy.low > 0.8


@pytest.fixture(scope="module")
def able(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    """GRPO and RS-GRPO from an able base, all three evaluated."""
    root = tmp_path_factory.mktemp("able")
    study = plan_study(load_config(None, ABLE))
    for each in study.runs:
        run(root, each.score)
    return root, study


def diagnosed(able: tuple[Path, Study], method: str) -> list[Finding]:
    root, study = able
    base, policy = (
        next(each for each in study.runs if each.identity["method"] == name)
        for name in ("base", method)
    )
    assert policy.training is not None
    counts = [counts_of(read_score(finished(root, each.score))) for each in (policy, base)]
    return diagnose(read_log(finished(root, policy.training) / "spool.jsonl"), *counts)


@pytest.mark.slow
def test_grpo_trained_long_is_overtaken_by_its_base(able: tuple[Path, Study]) -> None:
    entropy, gradient, overtaken = diagnosed(able, "grpo")
    assert (entropy.found, gradient.found, overtaken.found) == ("no", "no", "yes")
    assert overtaken.low <= overtaken.value <= overtaken.high < 0
    assert "the curves cross at k=" in overtaken.evidence


@pytest.mark.slow
def test_a_healthy_run_shows_none_of_the_signatures(able: tuple[Path, Study]) -> None:
    assert [finding.found for finding in diagnosed(able, "rs_grpo")] == ["no", "no", "no"]
