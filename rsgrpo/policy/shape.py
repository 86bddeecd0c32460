"""How large a policy is, without loading it: from its headers, its formula, or the config."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from rsgrpo.config import Config, PolicyConfig
from rsgrpo.errors import UserError

VOCABULARY_SIZE = 112  # of the embedded policy


class Shape(NamedTuple):
    """Sizes of a policy, each None where unknown, and where they were read.

    `kv_size` is the width of one layer's keys: key-value heads times their dimension.
    """

    parameters: int | None
    layers: int | None
    hidden_size: int | None
    kv_size: int | None
    vocabulary: int | None
    source: str


def policy_shape(config: Config) -> Shape:
    """Return the shape of a study's base policy.

    Raises:
        UserError: A checkpoint's files on this disk cannot be read.
    """
    checkpoint = config.policy.checkpoint
    if checkpoint is None:
        return embedded_shape(config.policy)
    if Path(checkpoint).is_dir():
        return checkpoint_shape(Path(checkpoint))
    plan = config.plan
    sizes = (plan.parameters, plan.layers, plan.hidden_size, plan.kv_size, plan.vocabulary)
    return Shape(*sizes, source="the config's plan branch")


def embedded_shape(policy: PolicyConfig) -> Shape:
    """Return the shape of the embedded Llama: untied embeddings, as many key heads as heads."""
    hidden, layers = policy.hidden_size, policy.layers
    layer = 4 * hidden * hidden + 3 * hidden * policy.mlp_size + 2 * hidden
    parameters = 2 * VOCABULARY_SIZE * hidden + layers * layer + hidden
    return Shape(parameters, layers, hidden, hidden, VOCABULARY_SIZE, "the embedded policy's sizes")


def checkpoint_shape(folder: Path) -> Shape:
    """Return the shape of a checkpoint from the headers of its weights and its `config.json`.

    Raises:
        UserError: One of them is missing or is not what its name says.
    """
    try:
        sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        parameters = sum(map(_parameters_in, sorted(folder.glob("*.safetensors"))))
    except (OSError, ValueError) as fault:
        raise UserError(f"policy {folder} cannot be read ({fault}): name a whole one") from fault
    return Shape(
        parameters or None,
        sizes.get("num_hidden_layers"),
        sizes.get("hidden_size"),
        _kv_size(sizes),
        sizes.get("vocab_size"),
        "the checkpoint's headers",
    )


def _parameters_in(file: Path) -> int:
    """Add up the shapes in a safetensors header: its length in 8 bytes, then JSON."""
    with file.open("rb") as content:
        header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name[:2] != "__")


def _kv_size(sizes: dict[str, Any]) -> int | None:
    heads = sizes.get("num_attention_heads")
    if not heads or not sizes.get("hidden_size"):
        return None
    head = sizes.get("head_dim") or sizes["hidden_size"] // heads
    return int((sizes.get("num_key_value_heads") or heads) * head)
