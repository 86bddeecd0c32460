"""Sampling with transformers on this machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rsgrpo.config import Config, PromptConfig, SamplingConfig
from rsgrpo.data.prepare import read_benchmarks
from rsgrpo.policy.load import end_tokens, load_policy
from rsgrpo.policy.prompts import adds_start_token, render_prompts
from rsgrpo.records import Problem, Sample
from rsgrpo.sampling.store import Part, bind_settings, plan_parts, samples_of, write_part

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]


def sample_stage(config: Config, *, data: Path, policy: str | Path, out: Path) -> None:
    """Draw the configured samples of every benchmark of the split (`sampling`, `prompt`).

    Args:
        config: The study.
        data: The output folder of the prepare stage.
        policy: A policy directory or a hub id.
        out: Where the parts go, one folder for each benchmark.

    Raises:
        UserError: There is no benchmark, or `out` holds samples drawn under other settings.
    """
    settings = config.sampling
    sample(
        policy,
        read_benchmarks(data, settings.split),
        settings.n,
        out=out,
        settings=settings,
        prompt=config.prompt,
        progress=_print_progress(),
    )


def sample(
    policy: str | Path,
    problems: Mapping[str, Sequence[Problem]],
    n: int,
    *,
    out: Path,
    settings: SamplingConfig = SamplingConfig(),
    prompt: PromptConfig = PromptConfig(),
    progress: Progress | None = None,
) -> list[Path]:
    """Draw `n` completions of every problem and write them as Parquet parts.

    Only parts that are missing are drawn; killed at any moment, the next call draws the rest.

    Args:
        policy: A policy directory or a hub id.
        problems: The problems of each benchmark, by name.
        n: Samples of each problem; it takes the place of `settings.n`. Benchmarks that
            `settings.n_of` names keep theirs.
        out: Where the parts go.
        settings: Batch size, temperature, top-p, length limit, seed, exceptions from `n`.
        prompt: How a problem becomes a prompt.
        progress: Called with (parts done, parts in all).

    Returns:
        The files of all parts.

    Raises:
        UserError: The policy cannot be loaded, `settings.n_of` names an unknown benchmark, or
            `out` holds samples drawn under other settings.
    """
    settings = settings.model_copy(update={"n": n})
    draws = samples_of(settings, list(problems))
    parts = plan_parts(problems, draws, settings.batch_size, settings.seed)
    named = {"policy": Path(policy).name}
    bind_settings(out, {**settings.model_dump(), **prompt.model_dump(), **named})
    missing = [part for part in parts if not part.path(out).exists()]
    if missing:
        draw = _Sampler(policy, settings, prompt)
        for done, part in enumerate(missing, len(parts) - len(missing) + 1):
            write_part(part.path(out), draw(part))
            if progress:
                progress(done, len(parts))
    return [part.path(out) for part in parts]


class _Sampler:
    """A loaded policy that draws one part at a time."""

    def __init__(self, policy: str | Path, settings: SamplingConfig, prompt: PromptConfig) -> None:
        import torch
        from transformers import GenerationConfig

        self.model, self.tokenizer = load_policy(policy)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self.device).eval()
        self.ends = end_tokens(self.model, self.tokenizer)
        # The checkpoint's own settings (a repetition penalty, say) must not leak into the draws.
        self.model.generation_config = GenerationConfig(
            do_sample=True,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=0,
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.ends,
        )
        self.prompt = prompt

    def __call__(self, part: Part) -> list[Sample]:
        import torch

        torch.manual_seed(part.seed)
        texts = [problem.problem for problem, _ in part.draws]
        inputs = self.tokenizer(
            render_prompts(texts, self.tokenizer, self.prompt),
            return_tensors="pt",
            padding=True,
            add_special_tokens=adds_start_token(self.prompt),
        ).to(self.device)
        with torch.inference_mode():
            tokens = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
            )
        return self._read(part, tokens[:, inputs["input_ids"].shape[1] :].cpu())

    def _read(self, part: Part, tokens: torch.Tensor) -> list[Sample]:
        lengths, truncated = completion_lengths(tokens, self.ends)
        rows = [row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True)]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            Sample(problem.id, index, text, length, cut)
            for (problem, index), text, length, cut in zip(
                part.draws, texts, lengths, truncated, strict=True
            )
        ]


def completion_lengths(
    tokens: torch.Tensor, end_tokens: Sequence[int]
) -> tuple[list[int], list[bool]]:
    """Return each completion's length with its end token, and whether it has none.

    Args:
        tokens: Completion tokens, shape (rows, longest), padded behind the end token.
        end_tokens: Token ids that end a completion.
    """
    import torch

    is_end = torch.isin(tokens, torch.tensor(end_tokens))
    ended = is_end.any(dim=1)
    first = is_end.int().argmax(dim=1) + 1
    lengths = torch.where(ended, first, tokens.shape[1])
    return lengths.tolist(), (~ended).tolist()


def _print_progress() -> Progress:
    began = time.monotonic()
    first: list[int] = []

    def report(done: int, total: int) -> None:
        first.append(done - 1)
        left = (time.monotonic() - began) / (done - first[0]) * (total - done)
        print(f"sampling: part {done} of {total}, {left:.0f} s left", file=sys.stderr, flush=True)

    return report
