"""Reading and writing policies as Hugging Face directories, safetensors only, no remote code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsgrpo.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_policy(
    checkpoint: str | Path, dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, padded on the left for generation.

    Args:
        checkpoint: A directory with safetensors weights, or a hub id.
        dtype: A torch dtype's name, or `auto` for the checkpoint's own.

    Raises:
        UserError: The path does not exist or holds no checkpoint.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    options: dict[str, Any] = {"trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left", **options)
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=dtype, use_safetensors=True, **options
        )
    except (OSError, ValueError, SafetensorError) as fault:
        reason = str(fault).strip().splitlines()[0]
        raise UserError(
            f"policy {str(checkpoint)!r} cannot be loaded ({reason}): name a directory with "
            "config.json, safetensors weights and a tokenizer, or a hub id"
        ) from fault
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token id that ends a completion: the model's and the tokenizer's, as in TRL.

    Raises:
        UserError: Neither names one.
    """
    declared = model.generation_config.eos_token_id
    ends = declared if isinstance(declared, list) else [declared]
    found = sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None})
    if not found:
        raise UserError("the policy has no end token: set eos_token in its tokenizer_config.json")
    return found


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a policy directory that `from_pretrained` reads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
