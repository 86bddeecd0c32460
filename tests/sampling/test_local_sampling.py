"""Parts are complete or drawn again whole, and never mixed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from rsgrpo.config import Config, SamplingConfig
from rsgrpo.errors import UserError
from rsgrpo.policy.load import save_policy
from rsgrpo.policy.tiny import build_model, build_tokenizer
from rsgrpo.records import Problem
from rsgrpo.sampling.local import completion_lengths, sample
from rsgrpo.sampling.store import plan_parts, read_parts

PROBLEMS = {
    "easy": [Problem("a", "1 2 3 > 6 :", "6"), Problem("b", "1 2 4 > 7 :", "7")],
    "hard": [Problem("c", "2 3 4 > 24 :", "24")],
}
N = {"easy": 10, "hard": 10}
SETTINGS = SamplingConfig(batch_size=8, seed=5)


def draw(policy: Path, out: Path, settings: SamplingConfig = SETTINGS, **more: Any) -> list[Path]:
    return sample(policy, PROBLEMS, 10, out=out, settings=settings, **more)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    save_policy(build_model(Config().policy), build_tokenizer(), folder)
    return folder


def test_parts_are_fixed_lists_with_seeds_of_their_own() -> None:
    parts = plan_parts(PROBLEMS, n=N, batch_size=8, seed=5)
    assert [(p.benchmark, p.number, len(p.draws)) for p in parts] == [
        ("easy", 0, 8),
        ("easy", 1, 8),
        ("easy", 2, 4),
        ("hard", 0, 8),
        ("hard", 1, 2),
    ]
    assert len({part.seed for part in parts}) == 5
    assert parts == plan_parts(PROBLEMS, n=N, batch_size=8, seed=5)
    assert parts[0].seed != plan_parts(PROBLEMS, n=N, batch_size=8, seed=6)[0].seed


def test_missing_parts_are_redrawn_exactly(policy: Path, tmp_path: Path) -> None:
    files = draw(policy, tmp_path)
    before = list(read_parts(tmp_path))
    assert len(before) == 30
    assert {(b, s.problem_id, s.sample_index) for b, s in before} == {
        (b, p.id, i) for b, rows in PROBLEMS.items() for p in rows for i in range(10)
    }
    untouched = files[0].stat().st_mtime_ns
    files[1].unlink()
    files[4].with_suffix(".partial").write_bytes(b"torn")
    files[4].unlink()
    drawn = []
    draw(policy, tmp_path, progress=lambda *at: drawn.append(at))
    assert drawn == [(4, 5), (5, 5)]
    assert list(read_parts(tmp_path)) == before
    assert files[0].stat().st_mtime_ns == untouched


def test_other_settings_refuse_to_mix(policy: Path, tmp_path: Path) -> None:
    draw(policy, tmp_path)
    warmer = SETTINGS.model_copy(update={"temperature": 0.7})
    with pytest.raises(UserError, match=r"temperature = 1\.0, not 0\.7"):
        draw(policy, tmp_path, settings=warmer)


def test_a_completion_ends_with_its_first_end_token() -> None:
    tokens = torch.tensor([[5, 9, 0, 0], [5, 6, 7, 8], [9, 9, 9, 9]])
    assert completion_lengths(tokens, [9]) == ([2, 4, 1], [False, True, False])


def test_a_benchmark_may_have_a_number_of_samples_of_its_own(policy: Path, tmp_path: Path) -> None:
    draw(policy, tmp_path, SETTINGS.model_copy(update={"n_of": {"hard": 3}}))
    drawn = Counter((b, s.problem_id) for b, s in read_parts(tmp_path))
    assert drawn == {("easy", "a"): 10, ("easy", "b"): 10, ("hard", "c"): 3}


def test_a_number_of_samples_for_an_unknown_benchmark_is_refused(
    policy: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="unknown benchmark 'hrad': did you mean hard"):
        draw(policy, tmp_path, SETTINGS.model_copy(update={"n_of": {"hrad": 3}}))
