"""The back end `local`: transformers on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rsgrpo.config import PromptConfig, SamplingConfig
from rsgrpo.errors import UserError
from rsgrpo.policy.load import end_tokens, load_policy
from rsgrpo.policy.prompts import adds_start_token, render_prompts
from rsgrpo.records import Problem, Sample
from rsgrpo.sampling.decode import Completions, draw_completions, refuse_other_architectures
from rsgrpo.sampling.store import Part

if TYPE_CHECKING:
    import torch

PROBE = "1 2 3 4 5 6 7 > 24 :"


class LocalSampler:
    """A policy that is loaded here and draws one part after the other, each as one batch."""

    def __init__(self, policy: str | Path, settings: SamplingConfig, prompt: PromptConfig) -> None:
        """Load the policy; a UserError says why it cannot be, or cannot be sampled here."""
        import torch

        self.settings, self.prompt = settings, prompt
        self.model, self.tokenizer = load_policy(policy)
        with _enough_memory(settings.batch_size):
            self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.ends = end_tokens(self.model, self.tokenizer)
        with torch.inference_mode():
            refuse_other_architectures(self.model, (self.tokenizer(PROBE)["input_ids"] * 4)[:12])

    def draw(self, parts: Sequence[Part], write: Callable[[Part, list[Sample]], None]) -> None:
        """Draw every part, as `sampling.sample.Sampler` says.

        Raises:
            UserError: A prompt leaves no room for a completion, or memory runs out.
        """
        prompts = {part.problems: self._prompts(part.problems) for part in parts}
        for part in parts:
            with _enough_memory(self.settings.batch_size):
                drawn = self._completions(part, prompts[part.problems])
            write(part, self._samples(part, drawn))

    def completions(self, part: Part) -> Completions:
        """Draw one part and return its tokens and their sums, in the order of `part.draws`."""
        return self._completions(part, self._prompts(part.problems))

    def _prompts(self, problems: Sequence[Problem]) -> list[list[int]]:
        """Return the token ids of each prompt; refuse those that do not fit before any draw."""
        texts = render_prompts([p.problem for p in problems], self.tokenizer, self.prompt)
        prompts: list[list[int]] = self.tokenizer(
            texts, add_special_tokens=adds_start_token(self.prompt)
        )["input_ids"]
        longest = self.settings.max_new_tokens
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for problem, prompt in zip(problems, prompts, strict=True):
            if not prompt:
                raise UserError(f"problem {problem.id} has an empty prompt: give it a text")
            if context and len(prompt) + longest > context:
                raise UserError(
                    f"problem {problem.id} has a prompt of {len(prompt)} tokens, which with "
                    f"sampling.max_new_tokens = {longest} is more than the policy's context of "
                    f"{context}: lower sampling.max_new_tokens, or leave the problem out"
                )
        return prompts

    def _completions(self, part: Part, prompts: Sequence[Sequence[int]]) -> Completions:
        import torch

        with torch.inference_mode():
            return draw_completions(
                self.model,
                prompts,
                part.stop - part.start,
                ends=self.ends,
                max_new_tokens=self.settings.max_new_tokens,
                warp=_warper(self.settings),
                generator=torch.Generator(self.model.device).manual_seed(part.seed),
            )

    def _samples(self, part: Part, drawn: Completions) -> list[Sample]:
        columns = [column.tolist() for column in drawn]
        rows = [row[:length] for row, length in zip(columns[0], columns[1], strict=True)]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            Sample(problem.id, index, text, length, truncated, logprob, entropy / length)
            for (problem, index), text, length, truncated, logprob, entropy in zip(
                part.draws, texts, *columns[1:], strict=True
            )
        ]


def _warper(settings: SamplingConfig) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return what temperature and top-p make of logits; None where they change nothing."""
    if settings.temperature == settings.top_p == 1:
        return None
    from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

    warmer = TemperatureLogitsWarper(settings.temperature)
    narrower = TopPLogitsWarper(settings.top_p)
    return lambda logits: narrower(None, warmer(None, logits))


@contextmanager
def _enough_memory(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a sentence; what the host may not have is a RuntimeError."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as fault:
        if type(fault) is RuntimeError and "can't allocate memory" not in str(fault):
            raise
        raise UserError(
            f"memory ran out with sampling.batch_size = {batch_size}: lower it and run the same "
            "command again"
        ) from fault
