"""Sampling from OpenAI-compatible servers (`rsgrpo serve`, or any other) over HTTP.

A server is asked for the completions of one problem of a part at a time, many requests in flight.
What is asked, seeds included, depends on the part alone: not on which server answers, nor on when.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsgrpo.config import PromptConfig, SamplingConfig, ServingConfig
from rsgrpo.errors import UserError
from rsgrpo.policy.prompts import adds_start_token, render_prompts
from rsgrpo.records import Problem, Sample
from rsgrpo.sampling.completions import Choice
from rsgrpo.sampling.replicas import AGAIN, Replicas
from rsgrpo.sampling.store import Part

Write = Callable[[Part, list[Sample]], None]

# An answer is held whole, with the log-probability of each token: 65,536 of them are about 6 MB.
TOKENS_IN_ANSWER = 65_536
SHORT_ANSWERS = 3


class _Job(NamedTuple):
    """One request: the draws `start` to `stop` - 1 of a part's problem at `position`."""

    open: _OpenPart
    problem: Problem
    text: str
    start: int
    stop: int


class _OpenPart:
    """A part of which some draws are there."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.found: dict[tuple[str, int], Sample] = {}

    def add(self, samples: Sequence[Sample], write: Write) -> None:
        """Keep samples; with the last of them, write the part."""
        self.found.update({(row.problem_id, row.sample_index): row for row in samples})
        draws = self.part.draws
        if len(self.found) == len(draws):
            write(self.part, [self.found[problem.id, index] for problem, index in draws])


class ServerSampler:
    """A policy behind one or more servers."""

    def __init__(
        self,
        policy: str | Path,
        settings: SamplingConfig,
        prompt: PromptConfig,
        serving: ServingConfig,
    ) -> None:
        """Only the chat template needs something of the policy here: its tokenizer.

        Raises:
            UserError: The tokenizer cannot be loaded.
        """
        self.policy, self.settings = policy, settings
        self.prompt, self.serving = prompt, serving
        self.tokenizer = _tokenizer(policy) if prompt.template == "chat" else None
        self.most = max(1, TOKENS_IN_ANSWER // settings.max_new_tokens)

    def draw(self, parts: Sequence[Part], write: Write) -> None:
        """Draw every part; `write` gets each as soon as it is complete.

        Raises:
            UserError: No server is left, one refuses, or one keeps returning too few completions.
        """
        asyncio.run(self._draw(parts, write))

    async def _draw(self, parts: Sequence[Part], write: Write) -> None:
        jobs = self._jobs(parts)
        async with Replicas(self.serving, self.policy) as replicas:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.serving.in_flight * len(self.serving.urls)):
                        group.create_task(self._work(jobs, replicas, write))
            except BaseExceptionGroup as faults:
                raise faults.exceptions[0] from None

    async def _work(self, jobs: Iterator[_Job], replicas: Replicas, write: Write) -> None:
        for job in jobs:
            choices = await self._choices(job, replicas)
            job.open.add(_samples(job, choices), write)

    def _jobs(self, parts: Sequence[Part]) -> Iterator[_Job]:
        """Yield the requests one by one, so that only as many as are in flight exist."""
        for part in parts:
            opened = _OpenPart(part)
            texts = render_prompts(
                [problem.problem for problem in part.problems],
                self.tokenizer,
                self.prompt,
            )
            for problem, text in zip(part.problems, texts, strict=True):
                start = part.start
                while start < part.stop:
                    stop = min(start + self.most, part.stop)
                    yield _Job(opened, problem, text, start, stop)
                    start = stop

    async def _choices(self, job: _Job, replicas: Replicas) -> list[Choice]:
        """Return a job's completions, asking again for those that an answer lacks."""
        found: list[Choice] = []
        asked = short = 0
        while (missing := job.stop - job.start - len(found)) and short < SHORT_ANSWERS:
            n = min(missing, self.most)
            body = self._body(job, n, asked)
            url, choices = await replicas.complete(body, f"problem {job.problem.id}")
            asked += 1
            if n > 1 and any(choice.n_tokens is None for choice in choices):
                self.most = 1  # of one completion alone, the usage tells the number of tokens
                continue
            found += choices[:n]
            short += len(choices) < n
        if missing:
            raise UserError(
                f"the server at {url} returned fewer completions than asked of problem "
                f"{job.problem.id}, {SHORT_ANSWERS} times: {len(found)} of "
                f"{job.stop - job.start}: {AGAIN}"
            )
        return found

    def _body(self, job: _Job, n: int, asked: int) -> dict[str, Any]:
        settings = self.settings
        body = {
            "prompt": job.text,
            "n": n,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": _seed(job, asked),
        }
        # OpenAI's interface lacks this one; True is what servers that know it take for granted
        return body if adds_start_token(self.prompt) else {**body, "add_special_tokens": False}


def _samples(job: _Job, choices: Sequence[Choice]) -> list[Sample]:
    samples = []
    for index, choice in enumerate(choices, job.start):
        if choice.n_tokens is None:
            raise UserError(
                "the server tells neither log-probabilities nor the usage of its completions, so "
                "their numbers of tokens are unknown: use another server"
            )
        samples.append(
            Sample(
                job.problem.id,
                index,
                choice.text,
                choice.n_tokens,
                choice.truncated,
                choice.logprob,
            )
        )
    return samples


def _seed(job: _Job, asked: int) -> int:
    """Return the seed of a request, in [0, 2^31): servers add small numbers to it for a choice."""
    text = f"{job.open.part.seed}/{job.problem.id}/{job.start}/{asked}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _tokenizer(policy: str | Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(policy, trust_remote_code=False)
    except (OSError, ValueError) as fault:
        reason = str(fault).strip().splitlines()[0]
        raise UserError(
            f"the tokenizer of {str(policy)!r} cannot be loaded ({reason}): the chat template "
            "needs it here, too; name a policy directory or a hub id"
        ) from fault
