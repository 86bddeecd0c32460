"""The embedded policy behind a real vLLM server, beside transformers on the same tokens."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch

from rsgrpo.config import SamplingConfig, ServingConfig, load_config
from rsgrpo.errors import UserError
from rsgrpo.policy.load import load_policy
from rsgrpo.records import Problem, Sample
from rsgrpo.sampling.completions import Choice
from rsgrpo.sampling.replicas import Replicas
from rsgrpo.sampling.sample import sample
from rsgrpo.sampling.serve import serving
from rsgrpo.sampling.store import read_parts
from rsgrpo.sampling.vllm import vllm_python
from rsgrpo.stages import run
from rsgrpo.study import base_policy
from tests.conftest import TINY, missing

pytestmark = pytest.mark.slow

# vLLM's attention on a CPU has no heads of 16 numbers, the embedded policy's own: two heads of 32.
SHAPE = ["policy.hidden_size=64", "policy.heads=2", "policy.mlp_size=128", "policy.layers=2"]
PRETRAINING = ["policy.pretrain.steps=300", "policy.pretrain.save_every=300"]
PROBLEMS = [
    Problem("a", "7 2 6 > 26 :", "26"),
    Problem("b", "1 2 3 > 6 :", "6"),
    Problem("c", "9 4 5 > 10 :", "10"),
]
SETTINGS = SamplingConfig(backend="server", seed=3)
QUICK = ("--enforce-eager", "--max-model-len", "64", "--gpu-memory-utilization", "0.1")


class Served(NamedTuple):
    """The policy, the verb that serves it, and where."""

    policy: Path
    verb: subprocess.Popen[str]
    url: str


@pytest.fixture(scope="module", autouse=True)
def _vllm() -> None:
    try:
        vllm_python()
    except UserError as fault:
        missing("vllm", str(fault))


@pytest.fixture(scope="module")
def policy(tiny_root: Path) -> Path:
    config = load_config(None, [*TINY, *SHAPE, *PRETRAINING])
    node = base_policy(config)
    assert not isinstance(node, str | Path)
    return run(tiny_root, node)


@pytest.fixture(scope="module")
def served(policy: Path) -> Iterator[Served]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = [str(Path(sys.executable).with_name("rsgrpo")), "serve", str(policy)]
    verb = subprocess.Popen(
        [*program, "--port", str(port), "--", *QUICK],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert verb.stdout
        url = verb.stdout.readline().strip()
        assert url == f"http://127.0.0.1:{port}"
        yield Served(policy, verb, url)
    finally:
        verb.terminate()
        verb.wait(60)


def teacher_forced(policy: Path, prompt: str, texts: list[str]) -> list[list[float]]:
    """The log-probability of each token of completions that ended, by transformers in float32."""
    model, tokenizer = load_policy(policy, dtype="float32")
    start = tokenizer(prompt)["input_ids"]
    rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    longest = max(map(len, rows))
    padded = torch.tensor([start + row + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        logprobs = model(padded).logits[:, len(start) - 1 : -1].log_softmax(-1)
    chosen = logprobs.gather(2, padded[:, len(start) :, None])[..., 0].tolist()
    return [values[: len(row)] for values, row in zip(chosen, rows, strict=True)]


def test_log_probabilities_of_vllm_are_those_of_transformers(
    served: Served, tmp_path: Path
) -> None:
    farthest = 0.0
    for problem in PROBLEMS:
        ended = [choice for choice in _ask(served, problem) if not choice.truncated]
        assert len(ended) >= 16
        expected = teacher_forced(served.policy, problem.problem, [c.text for c in ended])
        for choice, values in zip(ended, expected, strict=True):
            assert choice.token_logprobs is not None and choice.n_tokens == len(values)
            for told, value in zip(choice.token_logprobs, values, strict=True):
                farthest = max(farthest, abs(told - value))
    print(f"the largest difference of a token's log-probability is {farthest:.1e}")
    assert farthest <= 1e-3

    # the same through the whole path: parts on disk, with the sums of what was compared above
    rows = _draw(served, tmp_path / "out", 32)
    assert len(rows) == 96
    for problem in PROBLEMS:
        own = [row for row in rows if row.problem_id == problem.id and not row.truncated]
        expected = teacher_forced(served.policy, problem.problem, [row.completion for row in own])
        for row, values in zip(own, expected, strict=True):
            assert row.n_tokens == len(values)
            assert row.logprob == pytest.approx(sum(values), abs=1e-3 * len(values))


def test_completions_of_vllm_hold_the_tokens_that_were_drawn(
    served: Served, tmp_path: Path
) -> None:
    _, tokenizer = load_policy(served.policy)
    for row in _draw(served, tmp_path / "out", 32):
        tokens = tokenizer(row.completion)["input_ids"]
        assert tokenizer.decode(tokens) == " ".join(row.completion.split())
        assert len(tokens) == row.n_tokens - (not row.truncated)


def test_vllm_draws_the_same_again_and_only_what_is_missing(served: Served, tmp_path: Path) -> None:
    few = _draw(served, tmp_path / "out", 16)
    more = _draw(served, tmp_path / "out", 32)
    assert set(few) < set(more) and len(more) == 96
    assert _draw(served, tmp_path / "again", 16) == few


def test_what_vllm_refuses_is_said_in_its_words(served: Served, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"refuses the request .*max_tokens=100 cannot be greater"):
        _draw(served, tmp_path / "out", 4, SETTINGS.model_copy(update={"max_new_tokens": 100}))
    with pytest.raises(UserError, match="unknown model 'nothing'"):
        _draw(served, tmp_path / "other", 4, model="nothing")


def test_vllm_ends_with_the_verb_that_is_killed(served: Served) -> None:
    started = psutil.Process(served.verb.pid).children(recursive=True)
    assert len(started) >= 3  # the server, its engine, its worker
    served.verb.kill()
    end = time.monotonic() + 30
    while any(child.is_running() and child.status() != "zombie" for child in started):
        assert time.monotonic() < end, started
        time.sleep(0.1)


def test_an_argument_that_vllm_does_not_know_is_said_in_its_words(policy: Path) -> None:
    with pytest.raises(UserError) as fault, serving(policy, extra=["--no-such-option"]):
        pass
    assert "ended at its start" in str(fault.value)
    assert "error: unrecognized arguments: --no-such-option" in str(fault.value)


def _draw(
    served: Served, out: Path, n: int, settings: SamplingConfig = SETTINGS, **more: Any
) -> list[Sample]:
    serving = ServingConfig(urls=(served.url,), retries=0, **more)
    sample(served.policy, {"b": PROBLEMS}, n, out=out, settings=settings, serving=serving)
    return [row for _, row in read_parts(out)]


def _ask(served: Served, problem: Problem) -> list[Choice]:
    body = {"prompt": problem.problem, "n": 64, "max_tokens": 10, "seed": 1, "temperature": 1.0}

    async def ask() -> list[Choice]:
        async with Replicas(ServingConfig(urls=(served.url,))) as replicas:
            return (await replicas.complete(body, "the test"))[1]

    return asyncio.run(ask())
