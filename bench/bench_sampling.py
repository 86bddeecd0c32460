"""Sampling with the back end `local` against `model.generate` called by hand.

By hand: one loaded policy, batches of prompts that are all alike in length, `generate` and
`batch_decode`, nothing else; its best batch size counts. Ours: `sample` whole, with loading the
policy, log-probabilities, entropies and Parquet parts. CPU time on one thread. The policies are
untrained, so that completions have every length up to the limit.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from rsgrpo.config import Config, SamplingConfig
from rsgrpo.data import countdown
from rsgrpo.policy.load import load_policy, save_policy
from rsgrpo.policy.tiny import build_model, build_tokenizer
from rsgrpo.records import Problem
from rsgrpo.sampling.sample import sample
from rsgrpo.sampling.store import read_parts

TARGET = 0.9


class Case(NamedTuple):
    """What is drawn, and the batch sizes that `generate` may choose from."""

    name: str
    model: Callable[[], Any]
    problems: int
    n: int
    max_new_tokens: int
    by_hand: tuple[int, ...]
    batch_size: int
    rounds: int


def run() -> list[str]:
    """Return a line for the embedded policy, and one for long, uneven completions."""
    torch.set_num_threads(1)
    cases = (
        Case("embedded policy", _embedded, 40, 256, 10, (128, 256, 512, 1024, 2048, 4096), 2048, 3),
        Case("4 layers of 256", _larger, 16, 8, 256, (32, 64, 128), 128, 1),
    )
    return [_line(case) for case in cases]


def _line(case: Case) -> str:
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy"
        save_policy(case.model(), build_tokenizer(), policy)
        problems = _problems(case.problems)
        _by_hand(case, policy, problems[:1], 64)  # imports and first calls count for neither
        ours, sizes = [], defaultdict(list)
        for turn in range(case.rounds):
            ours.append(_ours(case, policy, problems, Path(folder) / f"samples{turn}"))
            for size in case.by_hand:
                sizes[size].append(_by_hand(case, policy, problems, size))
    quickest = {size: min(spent, key=_per_token) for size, spent in sizes.items()}
    best = min(quickest, key=lambda size: _per_token(quickest[size]))
    own, hand = min(ours, key=_per_token), quickest[best]
    others = ", ".join(f"{size}: {spent.seconds:.2f} s" for size, spent in quickest.items())
    return (
        f"sampling: local is {_per_token(hand) / _per_token(own):.2f}x as fast per token as "
        f"model.generate by hand (target >= {TARGET}x): {case.name}, {case.problems} x {case.n} "
        f"completions of up to {case.max_new_tokens} tokens, quickest of {case.rounds}, CPU "
        f"{own.seconds:.2f} s for {own.tokens:,} tokens against {hand.seconds:.2f} s for "
        f"{hand.tokens:,} at its best batch size {best} ({others})"
    )


class Spent(NamedTuple):
    """CPU time and the tokens drawn in it."""

    seconds: float
    tokens: int


def _per_token(spent: Spent) -> float:
    return spent.seconds / spent.tokens


def _ours(case: Case, policy: Path, problems: list[Problem], out: Path) -> Spent:
    settings = SamplingConfig(batch_size=case.batch_size, max_new_tokens=case.max_new_tokens)
    began = _cpu_seconds()
    sample(policy, {"bench": problems}, case.n, out=out, settings=settings)
    spent = _cpu_seconds() - began
    rows = [row for _, row in read_parts(out)]
    assert len(rows) == case.problems * case.n
    return Spent(spent, sum(row.n_tokens for row in rows))


def _by_hand(case: Case, policy: Path, problems: list[Problem], batch_size: int) -> Spent:
    model, tokenizer = load_policy(policy)
    model.eval()
    settings = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=case.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    texts = [problem.problem for problem in problems for _ in range(case.n)]
    torch.manual_seed(0)
    drawn = []
    began = _cpu_seconds()
    for chosen in _batches(texts, batch_size):
        inputs = tokenizer(chosen, return_tensors="pt", padding=True)
        with torch.inference_mode():
            tokens = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=settings,
            )
        completions = tokens[:, inputs["input_ids"].shape[1] :]
        tokenizer.batch_decode(completions, skip_special_tokens=True)
        drawn.append(completions)
    spent = _cpu_seconds() - began
    return Spent(spent, sum(_tokens(one, tokenizer.eos_token_id) for one in drawn))


def _tokens(completions: torch.Tensor, end: int) -> int:
    """Count tokens up to the first end token of each row, with it."""
    ended = (completions == end).cumsum(dim=1) - (completions == end).long()
    return int((ended == 0).sum())


def _batches(texts: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


def _problems(count: int) -> list[Problem]:
    puzzles = random.Random(0).sample(list(countdown.puzzles()), count)
    return [countdown.to_problem(p, p.numbers, f"p{i}") for i, p in enumerate(puzzles)]


def _embedded() -> Any:
    return build_model(Config().policy)


def _larger() -> Any:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=112,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=8,
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _cpu_seconds() -> float:
    """Return the CPU time of this process and its children."""
    spent = [getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)
