"""Dynamic sampling: which groups of a batch are kept, redrawn or dropped (DAPO, arXiv 2503.14476).

A group whose rewards are all equal has no gradient. Every decision here is taken on the rewards
gathered from all ranks, identical everywhere, so that all ranks act alike without talking again.
Suffixes: `_W` ranks, `_G` groups of a rank, `_B` rows of a rank, `_F` reward functions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from rsgrpo.advantages import has_signal


class Rollouts(NamedTuple):
    """What `GRPOTrainer._generate` returns, by name: one entry for each row of this rank."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    tool_mask: None
    completions: list[Any]
    logprobs: list[list[float]] | None
    extra_fields: dict[str, Any]
    images: None
    tool_images: list[Any]

    def joined(self, other: Rollouts) -> Rollouts:
        """Return these rows followed by the other's."""
        logprobs = None
        if self.logprobs is not None and other.logprobs is not None:
            logprobs = self.logprobs + other.logprobs
        return self._replace(
            prompt_ids=self.prompt_ids + other.prompt_ids,
            completion_ids=self.completion_ids + other.completion_ids,
            completions=self.completions + other.completions,
            logprobs=logprobs,
        )

    def selected(self, rows: list[int]) -> Rollouts:
        """Return the given rows in the given order."""
        return self._replace(
            prompt_ids=[self.prompt_ids[row] for row in rows],
            completion_ids=[self.completion_ids[row] for row in rows],
            completions=[self.completions[row] for row in rows],
            logprobs=self.logprobs and [self.logprobs[row] for row in rows],
        )


def live_groups(rewards: torch.Tensor, ranks: int, group_size: int) -> torch.Tensor:
    """Return live_WG: whether the rewards of each group differ.

    Args:
        rewards: Gathered rewards, shape (ranks * rows,), whole groups in rank order.
        ranks: Number of processes.
        group_size: Samples of a prompt.
    """
    return has_signal(rewards.view(-1, group_size)).view(ranks, -1)


def rows_to_keep(live_WG: torch.Tensor, group_size: int, divisor: int) -> torch.Tensor:
    """Return rows_WB: the rows of each rank that stay when silent groups are dropped.

    Every rank keeps as many groups as the one with most live groups, and enough that its rows split
    into `divisor` equal parts; silent groups, whose advantage is 0, fill up.
    """
    ranks, groups = live_WG.shape
    keep = max(int(live_WG.sum(1).max()), 1)
    while keep < groups and keep * group_size % divisor:
        keep += 1
    live_first = torch.argsort((~live_WG).to(torch.uint8), dim=1, stable=True)
    kept_WG = live_first[:, :keep].sort(dim=1).values
    offsets = torch.arange(group_size, device=live_WG.device)
    return (kept_WG.unsqueeze(2) * group_size + offsets).view(ranks, -1)


class Refill(NamedTuple):
    """One round of redrawing. Every rank draws `width` groups, the last of them perhaps unused.

    `slots` holds for each rank the groups that are replaced; `prompts` holds for each of them the
    number of its fresh prompt, counted over all ranks from `first_prompt` on.
    """

    width: int
    slots: list[list[int]]
    prompts: list[list[int]]


def plan_refill(live_WG: torch.Tensor, first_prompt: int) -> Refill:
    """Return which silent groups are redrawn, each with the next fresh prompt in global order."""
    slots = [torch.nonzero(~live_G).flatten().tolist() for live_G in live_WG]
    prompts, following = [], first_prompt
    for groups in slots:
        prompts.append(list(range(following, following + len(groups))))
        following += len(groups)
    return Refill(max(map(len, slots)), slots, prompts)


def used_groups(refill: Refill) -> list[int]:
    """Return which of the `ranks * width` redrawn groups, in rank order, take a slot."""
    return [
        rank * refill.width + order
        for rank, groups in enumerate(refill.slots)
        for order in range(len(groups))
    ]


def rows_after_refill(refill: Refill, rows: int, group_size: int) -> torch.Tensor:
    """Return rows_WB into old rows followed by redrawn ones: each slot takes its redrawn group."""
    ranks = len(refill.slots)
    rows_WB = torch.arange(rows).repeat(ranks, 1)
    for rank, groups in enumerate(refill.slots):
        for order, group in enumerate(groups):
            start = rows + order * group_size
            rows_WB[rank, group * group_size : (group + 1) * group_size] = torch.arange(
                start, start + group_size
            )
    return rows_WB


def fresh_prompts(seed: int, step: int, first: int, count: int, size: int) -> list[int]:
    """Return dataset indices number `first` to `first + count` of this step's own permutation.

    Seeded by (seed, step) alone, so that a resumed run draws what the undisturbed one would.
    """
    generator = torch.Generator().manual_seed(hash((seed, step)) % 2**63)
    order = torch.randperm(size, generator=generator).tolist()
    return [order[(first + i) % size] for i in range(count)]


def select_gathered(rewards: torch.Tensor, rows_WB: torch.Tensor) -> torch.Tensor:
    """Take rows_WB of each rank out of gathered rewards, shape (ranks * rows, F)."""
    ranks = rows_WB.shape[0]
    rewards_WBF = rewards.view(ranks, -1, rewards.shape[-1])
    index = rows_WB.to(rewards.device).unsqueeze(2).expand(-1, -1, rewards.shape[-1])
    return rewards_WBF.gather(1, index).view(-1, rewards.shape[-1])


def join_gathered(first: torch.Tensor, second: torch.Tensor, ranks: int) -> torch.Tensor:
    """Join two gathered reward tensors rank by rank."""
    width = first.shape[-1]
    parts = (first.view(ranks, -1, width), second.view(ranks, -1, width))
    return torch.cat(parts, dim=1).view(-1, width)
