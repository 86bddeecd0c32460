"""Sampling with transformers on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rsgrpo.config import PromptConfig, SamplingConfig
from rsgrpo.policy.load import end_tokens, load_policy
from rsgrpo.policy.prompts import adds_start_token, render_prompts
from rsgrpo.records import Sample
from rsgrpo.sampling.store import Part

if TYPE_CHECKING:
    import torch


class LocalSampler:
    """A policy that is loaded here and draws one part after the other."""

    def __init__(self, policy: str | Path, settings: SamplingConfig, prompt: PromptConfig) -> None:
        """Load the policy; raises a UserError where it cannot be."""
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

    def draw(self, parts: Sequence[Part], write: Callable[[Part, list[Sample]], None]) -> None:
        """Draw every part, see `sampling.sample.Sampler`."""
        for part in parts:
            write(part, self._draw(part))

    def _draw(self, part: Part) -> list[Sample]:
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
