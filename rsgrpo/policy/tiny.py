"""The embedded policy: a word-level tokenizer and a Llama of about 100,000 parameters.

Its pre-training makes the sharply peaked policy that the paper starts from: good where `+` and `-`
suffice, seldom right where `*` or `/` is needed, and rarely without any solution at all.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rsgrpo.config import Config, PolicyConfig, PretrainConfig
from rsgrpo.data import countdown
from rsgrpo.data.jsonl import read_rows, write_rows
from rsgrpo.policy.load import save_policy
from rsgrpo.policy.shape import VOCABULARY_SIZE
from rsgrpo.stages import WORK

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = [*map(str, range(100)), "+", "-", "*", "/", "=", ":", ">", "$", "<pad>"]
END, PAD = "$", "<pad>"
PROMPT_TOKENS = 6
_IDS = {token: index for index, token in enumerate(VOCABULARY)}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: one token for each number and sign, `$` ends an answer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(dict(_IDS), unk_token=PAD))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=PAD, padding_side="left"
    )


def build_model(policy: PolicyConfig) -> LlamaForCausalLM:
    """Return an untrained policy of the configured size, initialised from `policy.seed`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(policy.seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=policy.hidden_size,
        intermediate_size=policy.mlp_size,
        num_hidden_layers=policy.layers,
        num_attention_heads=policy.heads,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=_IDS[END],
        pad_token_id=_IDS[PAD],
    )
    return LlamaForCausalLM(config)


def pretrain(config: Config, *, data: Path, out: Path) -> None:
    """Pre-train the embedded policy on the corpus and write its directory.

    Killed at any moment, the next call goes on from the last of its checkpoints, bit by bit.

    Args:
        config: The study; `policy` is read.
        data: The output folder of the prepare stage, with `corpus.jsonl`.
        out: Where the policy directory and `pretrain.jsonl` (step, loss) are written.
    """
    settings = config.policy.pretrain
    model = build_model(config.policy)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
    )
    checkpoint = out / WORK / "checkpoint.pt"
    checkpoint.parent.mkdir(exist_ok=True)
    losses = _restore(checkpoint, model, optimizer)
    batches = corpus_batches(data / "corpus.jsonl", settings, config.policy.seed)
    for step, batch in enumerate(batches):
        if step < len(losses):
            continue
        losses.append(_update(model, optimizer, batch, _learning_rate(step, settings)))
        if (step + 1) % settings.save_every == 0:
            _save(checkpoint, model, optimizer, losses)
            print(f"pre-training: step {step + 1} of {settings.steps}", file=sys.stderr, flush=True)
    write_rows(out / "pretrain.jsonl", ({"step": i, "loss": x} for i, x in enumerate(losses)))
    save_policy(model, build_tokenizer(), out)


def corpus_batches(corpus: Path, settings: PretrainConfig, seed: int) -> Iterator[torch.Tensor]:
    """Yield one int64 batch of shape (batch_size, 16) for each step: prompt, answer and end.

    A row's tier follows `tier_mix`, its prompt is uniform in the tier with its numbers shuffled,
    its solution drawn with weight = product of its operators' weights.
    """
    draw = random.Random(f"pretrain-{seed}")
    tiers = _read_corpus(corpus, settings)
    for _ in range(settings.steps):
        names = draw.choices(list(countdown.TIERS), settings.tier_mix, k=settings.batch_size)
        yield torch.tensor([_draw_row(draw, tiers[name]) for name in names])


def _read_corpus(
    corpus: Path, settings: PretrainConfig
) -> dict[str, list[tuple[list[list[int]], list[float]]]]:
    tiers: dict[str, list[tuple[list[list[int]], list[float]]]] = {t: [] for t in countdown.TIERS}
    for _, row in read_rows(corpus, ("tier", "solutions")):
        answers = [[_IDS[token] for token in text.split()] for text in row["solutions"]]
        weights = [_weight(ids, settings) for ids in answers]
        tiers[row["tier"]].append((answers, weights))
    return tiers


def _weight(answer: list[int], settings: PretrainConfig) -> float:
    weights: dict[str, float] = dict(settings.operator_weights)  # type: ignore[arg-type]
    return weights[VOCABULARY[answer[1]]] * weights[VOCABULARY[answer[5]]]


def _draw_row(draw: random.Random, puzzles: list[tuple[list[list[int]], list[float]]]) -> list[int]:
    answers, weights = puzzles[int(draw.random() * len(puzzles))]
    answer = draw.choices(answers, weights)[0]
    numbers = [answer[0], answer[2], answer[6]]
    draw.shuffle(numbers)
    return [*numbers, _IDS[">"], answer[-1], _IDS[":"], *answer, _IDS[END]]


def _update(
    model: Any, optimizer: torch.optim.Optimizer, batch: torch.Tensor, rate: float
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    logits = model(batch[:, :-1], use_cache=False).logits[:, PROMPT_TOKENS - 1 :]
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch[:, PROMPT_TOKENS:].flatten()
    )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _learning_rate(step: int, settings: PretrainConfig) -> float:
    warm = min((step + 1) / max(settings.warmup_steps, 1), 1.0)
    return settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _save(path: Path, model: Any, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _restore(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> list[float]:
    if not path.exists():
        return []
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    losses: list[float] = state["losses"]
    return losses
