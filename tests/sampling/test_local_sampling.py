"""What the back end `local` draws: whole parts, again alike, with exact log-probabilities."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from rsgrpo.config import PromptConfig, SamplingConfig
from rsgrpo.errors import UserError
from rsgrpo.policy.load import load_policy, save_policy
from rsgrpo.records import Problem
from rsgrpo.sampling.local import LocalSampler
from rsgrpo.sampling.sample import Progress, sample
from rsgrpo.sampling.store import plan_parts, read_parts

Problems = dict[str, list[Problem]]
SETTINGS = SamplingConfig(batch_size=8, seed=5)


def test_missing_parts_are_redrawn_exactly(
    policy: Path, problems: Problems, tmp_path: Path
) -> None:
    files = sample(policy, problems, 10, out=tmp_path, settings=SETTINGS)
    before = list(read_parts(tmp_path))
    assert Counter((b, s.problem_id, s.sample_index) for b, s in before) == {
        (b, p.id, i): 1 for b, rows in problems.items() for p in rows for i in range(10)
    }
    untouched = files[0].stat().st_mtime_ns
    files[1].unlink()
    files[4].with_suffix(".partial").write_bytes(b"torn")
    files[4].unlink()
    seen: list[Progress] = []
    sample(policy, problems, 10, out=tmp_path, settings=SETTINGS, report=seen.append)
    assert [(p.done, p.total, p.drawn) for p in seen] == [(20, 30, 0), (28, 30, 8), (30, 30, 10)]
    assert list(read_parts(tmp_path)) == before
    assert files[0].stat().st_mtime_ns == untouched
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9)])
def test_logprob_and_entropy_equal_those_of_a_separate_forward_pass(
    temperature: float, top_p: float, policy: Path, tmp_path: Path
) -> None:
    rows = [Problem("short", "1 2 > 3 :", "3"), Problem("long", "1 2 3 4 5 6 7 > 24 :", "24")]
    settings = SamplingConfig(
        batch_size=256, max_new_tokens=40, temperature=temperature, top_p=top_p
    )
    sample(policy, {"b": rows}, 128, out=tmp_path, settings=settings)
    samples = [row for _, row in read_parts(tmp_path)]
    sampler = LocalSampler(policy, settings, PromptConfig())
    (part,) = plan_parts({"b": rows}, {"b": 128}, 256, 0)
    prompts = [sampler.tokenizer(problem.problem)["input_ids"] for problem, _ in part.draws]
    drawn = sampler.completions(part)
    assert len(set(drawn.n_tokens_R.tolist())) > 2  # rows are taken out on the way
    assert 0 < int(drawn.truncated_R.sum()) < 256
    for row, (prompt, found) in enumerate(zip(prompts, samples, strict=True)):
        tokens = drawn.tokens_RT[row, : found.n_tokens].tolist()
        assert found.completion == sampler.tokenizer.decode(tokens, skip_special_tokens=True)
        assert found.truncated == (tokens[-1] != sampler.tokenizer.eos_token_id)
        assert sampler.tokenizer.eos_token_id not in tokens[:-1]
        logprob, mean_entropy = teacher_forced(sampler.model, prompt, tokens)
        assert found.logprob == pytest.approx(logprob, abs=1e-4)
        assert found.mean_entropy == pytest.approx(mean_entropy, abs=1e-4)


def teacher_forced(model: Any, prompt: list[int], tokens: list[int]) -> tuple[float, float]:
    ids = torch.tensor([[*prompt, *tokens]], device=model.device)
    with torch.no_grad():
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
    logprobs = logits.double().log_softmax(-1)
    chosen = logprobs[range(len(tokens)), tokens]
    return float(chosen.sum()), float(-(logprobs.exp() * logprobs).sum(-1).mean())


def test_completions_follow_the_policys_own_distribution(policy: Path) -> None:
    """First tokens drawn at temperature 0.5 and top-p 0.8 have the frequencies of the formula."""
    settings = SamplingConfig(max_new_tokens=2, temperature=0.5, top_p=0.8)
    sampler = LocalSampler(policy, settings, PromptConfig())
    rows = {"b": [Problem("p", "1 2 3 > 6 :", "6")]}
    (part,) = plan_parts(rows, {"b": 8192}, 8192, 1)
    first = sampler.completions(part).tokens_RT[:, 0]
    prompt = first.new_tensor([sampler.tokenizer("1 2 3 > 6 :")["input_ids"]])
    with torch.no_grad():
        warm = (sampler.model(prompt).logits[0, -1].double() / 0.5).softmax(-1)
    ordered, order = warm.sort(descending=True)
    kept = order[: int((ordered.cumsum(0) < 0.8).sum()) + 1]
    expected = torch.zeros_like(warm)
    expected[kept] = warm[kept] / warm[kept].sum()
    found = torch.bincount(first, minlength=len(warm)).double() / 8192
    assert found[expected == 0].sum() == 0
    assert float((found - expected).abs().max()) < 5 * math.sqrt(float(expected.max()) / 8192)


def test_a_prompt_that_leaves_no_room_is_refused_before_any_draw(
    policy: Path, problems: Problems, tmp_path: Path
) -> None:
    rows = {**problems, "long": [Problem("x", "1 " * 60 + ":", "1")]}
    sentence = (
        "problem x has a prompt of 61 tokens, which with sampling.max_new_tokens = 10 is more than "
        "the policy's context of 64: lower sampling.max_new_tokens"
    )
    with pytest.raises(UserError, match=sentence):
        sample(policy, rows, 4, out=tmp_path, settings=SETTINGS)
    assert not list(tmp_path.rglob("part-*"))


def test_an_empty_prompt_is_one_sentence(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="problem x has an empty prompt"):
        sample(policy, {"b": [Problem("x", " ", "1")]}, 4, out=tmp_path)


def test_a_tokenizer_without_a_padding_token_samples(
    policy: Path, problems: Problems, tmp_path: Path
) -> None:
    bare = tmp_path / "policy"
    shutil.copytree(policy, bare)
    settings = bare / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('"pad_token"', '"another_token"'))
    sample(bare, problems, 4, out=tmp_path / "bare", settings=SETTINGS)
    sample(policy, problems, 4, out=tmp_path / "whole", settings=SETTINGS)
    assert list(read_parts(tmp_path / "bare")) == list(read_parts(tmp_path / "whole"))


def test_a_policy_whose_logits_are_not_finite_is_one_sentence(
    policy: Path, problems: Problems, tmp_path: Path
) -> None:
    model, tokenizer = load_policy(policy)
    torch.nn.init.constant_(model.lm_head.weight, math.nan)
    save_policy(model, tokenizer, tmp_path / "broken")
    with pytest.raises(UserError, match="the policy's logits are not finite"):
        sample(tmp_path / "broken", problems, 4, out=tmp_path / "out", settings=SETTINGS)


def test_a_policy_that_is_not_there_is_one_sentence(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty' cannot be loaded"):
        sample(tmp_path / "empty", problems, 4, out=tmp_path / "out", settings=SETTINGS)


@pytest.mark.slow
def test_memory_that_runs_out_is_one_sentence_and_parts_are_kept(
    policy: Path, problems: Problems, tmp_path: Path
) -> None:
    """A process that may hold 8 GiB is asked for a batch that needs more, after a small one."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from rsgrpo.config import SamplingConfig; from rsgrpo.records import Problem\n"
        "from rsgrpo.sampling.sample import sample; from rsgrpo.errors import UserError\n"
        "import torch; resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
        "rows = {'b': [Problem('c', '2 3 4 > 24 :', '24')]}\n"
        "settings = SamplingConfig(batch_size=1 << 25)\n"
        "policy, out = map(Path, sys.argv[1:])\n"
        "sample(policy, rows, 8, out=out, settings=settings)\n"
        "try: sample(policy, rows, 1 << 25, out=out, settings=settings)\n"
        "except UserError as fault: print(fault)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(policy), str(tmp_path)], capture_output=True, text=True
    )
    assert "memory ran out with sampling.batch_size = 33554432: lower it" in done.stdout, done
    assert len(list(read_parts(tmp_path))) == 8
