"""Drawing completions of a batch of prompts token by token.

`model.generate` made shorter: a prompt is read once for all of its completions, rows that have
ended are taken out of the batch, and each token's log-probability and the entropy of what it was
drawn from are summed on the way, so that no (rows, tokens, vocabulary) tensor is ever kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rsgrpo.errors import UserError

if TYPE_CHECKING:
    import torch

CROWDED = 7 / 8  # rows are taken out of the batch when no more than this share of it still runs
ALIKE = 0.2  # of total variation, far above the noise of short number formats


class Completions(NamedTuple):
    """Completions of R rows: all copies of the first prompt first.

    `tokens_RT` is filled up behind `n_tokens_R`, which counts the end token; `logprob_R` and
    `entropy_R` are sums over those tokens in nats, under the policy itself.
    """

    tokens_RT: torch.Tensor
    n_tokens_R: torch.Tensor
    truncated_R: torch.Tensor
    logprob_R: torch.Tensor
    entropy_R: torch.Tensor


def draw_completions(
    model: Any,
    prompts: Sequence[Sequence[int]],
    copies: int,
    *,
    ends: Sequence[int],
    max_new_tokens: int,
    warp: Callable[[torch.Tensor], torch.Tensor] | None,
    generator: torch.Generator,
) -> Completions:
    """Draw `copies` completions of every prompt.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        prompts: Token ids of each prompt, at least one.
        copies: Completions of each prompt.
        ends: Token ids that end a completion.
        max_new_tokens: The longest completion.
        warp: From logits of shape (rows, vocabulary) to those that are drawn from (temperature,
            top-p); None draws from the policy itself.
        generator: The random stream, on the model's device.

    Raises:
        UserError: The policy's logits are not finite.
    """
    import torch

    rows = len(prompts) * copies
    ids, attended = _left_padded(prompts, model.device)
    logits, cache = _read_prompts(model, ids, attended, copies)
    attended = attended.repeat_interleave(copies, dim=0)
    end_ids = torch.tensor(ends, device=model.device)
    row, running = torch.arange(rows, device=model.device), logits.new_ones(rows, dtype=torch.bool)
    tokens_RT = row.new_zeros(rows, max_new_tokens)
    sums_R = logits.new_zeros(3, rows, dtype=torch.float64)  # tokens, log-probability, entropy
    for step in range(max_new_tokens):
        chosen, told = _choose(logits, warp, generator)
        tokens_RT[row, step] = chosen
        sums_R[:, row] += told * running
        running &= ~torch.isin(chosen, end_ids)
        left = int(running.sum())
        if left == 0 or step + 1 == max_new_tokens:
            break
        if left <= CROWDED * len(running):
            kept = running.nonzero()[:, 0]
            cache.reorder_cache(kept)
            row, chosen, attended, running = (x[kept] for x in (row, chosen, attended, running))
        attended = torch.cat([attended, attended.new_ones(len(row), 1)], dim=1)
        logits = _next_logits(model, chosen[:, None], attended, cache)
    truncated_R = torch.zeros(rows, dtype=torch.bool, device=model.device)
    truncated_R[row] = running
    return Completions(tokens_RT, sums_R[0].long(), truncated_R, sums_R[1], sums_R[2])


def refuse_other_architectures(model: Any, text: Sequence[int]) -> None:
    """Refuse a policy that a padded batch and a cache make another one.

    An architecture whose state cannot be kept or reordered here, or that reads the padding, would
    draw from a wrong distribution without a word.

    Args:
        model: As in `draw_completions`.
        text: Token ids of any text, at least four.

    Raises:
        UserError: The policy's next tokens differ from those that it gives for a text alone.
    """
    try:
        apart = _apart(model, text)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as fault:
        first_line = str(fault).strip().partition("\n")[0]
        reason = first_line or type(fault).__name__  # a fault may say nothing
    else:
        if not apart > ALIKE:  # what is not finite is found by the draws
            return
        reason = (
            f"in a padded batch its next tokens differ by {apart:.0%} from those of a text alone"
        )
    raise UserError(
        f"a policy of the architecture {type(model).__name__} cannot be sampled with "
        f"transformers here ({reason}): serve it, and set sampling.backend to server"
    )


def _apart(model: Any, text: Sequence[int]) -> float:
    """Return the largest total variation between next tokens drawn here and of a text alone."""
    import torch

    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise TypeError("it keeps its state in no cache of transformers")
    *prompt, one, last = text
    texts = [text[-3:], text]  # in the order that they have once their rows have changed places
    ids, attended = _left_padded([prompt, prompt[-1:]], model.device)
    _, cache = _read_prompts(model, ids, attended, 1)
    cache.reorder_cache(torch.tensor([1, 0], device=model.device))
    attended = attended.flip(0)
    for token in (one, last):
        attended = torch.cat([attended, attended.new_ones(2, 1)], dim=1)
        logits = _next_logits(model, ids.new_tensor([[token], [token]]), attended, cache)
    alone = [
        model(input_ids=ids.new_tensor([list(t)]), use_cache=False).logits[:, -1] for t in texts
    ]
    distance = logits.softmax(-1) - torch.cat(alone).float().softmax(-1)
    return float(distance.abs().sum(-1).max() / 2)


def _left_padded(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    attended = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(attended, device=device)


def _read_prompts(
    model: Any, ids: torch.Tensor, attended: torch.Tensor, copies: int
) -> tuple[torch.Tensor, Any]:
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    logits = _next_logits(model, ids, attended, cache)
    # of a cache's ways to take rows, the one that layers of linear attention have, too
    cache.reorder_cache(torch.arange(len(ids), device=ids.device).repeat_interleave(copies))
    return logits.repeat_interleave(copies, dim=0), cache


def _next_logits(model: Any, ids: torch.Tensor, attended: torch.Tensor, cache: Any) -> torch.Tensor:
    """Return the logits behind the last token of each row, shape (rows, vocabulary), float32."""
    positions = (attended.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    output = model(
        input_ids=ids,
        attention_mask=attended,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: torch.Tensor = output.logits[:, -1].float()
    return logits


def _choose(
    logits: torch.Tensor,
    warp: Callable[[torch.Tensor], torch.Tensor] | None,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token for each row; return it, and (1, its log-probability, the entropy) by row."""
    import torch

    logprobs = logits.log_softmax(dim=-1)
    probabilities = logprobs.exp()
    entropy = -(probabilities * logprobs.clamp(min=-1e4)).sum(dim=-1)
    drawn_from = probabilities if warp is None else warp(logits).softmax(dim=-1)
    chosen = _draw_from(drawn_from, generator)
    told = [torch.ones_like(entropy), logprobs.gather(1, chosen)[:, 0], entropy]
    return chosen[:, 0], torch.stack(told)


def _draw_from(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw an index for each row by inverting its distribution function, shape (rows, 1).

    On a processor `torch.multinomial` draws one random number for each entry instead of each row,
    and takes a fifth of the time of a small policy. An entry of probability 0 is never drawn.

    Raises:
        UserError: A probability is not a number.
    """
    import torch

    cumulative = probabilities.cumsum(dim=-1)
    whole = cumulative[:, -1:]
    if not bool(whole.isfinite().all()):
        raise UserError(
            "the policy's logits are not finite, so nothing can be drawn: its weights are damaged, "
            "or overflow in their number format"
        )
    point = torch.rand(whole.shape, generator=generator, device=whole.device) * whole
    below = torch.nextafter(whole, torch.zeros_like(whole))  # rounding may reach the whole
    return torch.searchsorted(cumulative, torch.minimum(point, below), right=True)
